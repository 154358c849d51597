"""Compare hstpeft with numbers that the official implementations computed.

    python tools/check_reference.py ../shared/reference [--system hst] [--float64]

Runs every case (`<system>/<case>.json` with its `.npz`) under a folder, prints one line per case and
`N passed, N failed`; the exit status is 0 only if there are cases and all passed.
"""

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hstpeft.oracle.case import Case, UnknownArgument


def is_case(path: Path) -> bool:
    """Tell a case from other JSON files; a damaged one counts, and fails."""
    try:
        return 'system' in json.loads(path.read_text())
    except ValueError:
        return True


def check(path: Path, dtype: torch.dtype) -> tuple[float, float]:
    """Run one case.

    Returns:
        The largest difference of an output and the largest relative one of a gradient.

    Raises:
        Mismatch, UnknownArgument: The case failed.
    """
    case = Case(path, dtype)
    system = case.meta['system']
    name = f'tools.reference_checks.{system}'
    if not str(system).isidentifier() or importlib.util.find_spec(name) is None:
        raise UnknownArgument(f'system {system!r} is not in hstpeft yet')
    module = importlib.import_module(name)
    model = module.build(case).to(dtype)
    model.train(case.mode == 'train')
    return case.compare(module.run(case, model))


def main(arguments: list[str] | None = None) -> int:
    """Check all cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, help='folder of reference cases')
    parser.add_argument('--system', help='only the cases of this system, e.g. hst')
    parser.add_argument('--float64', action='store_true', help='run in double precision')
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(options.folder.rglob('*.json')) if is_case(path)]
    paths = [path for path in paths if options.system in (None, path.parent.name)]
    dtype = torch.float64 if options.float64 else torch.float32
    failed = 0
    for path in paths:
        name = f'{path.parent.name}/{path.stem}'
        try:
            output, gradient = check(path, dtype)
            print(f'{name:<36}  ok  max|d|={output:.1e}  max|d grad|={gradient:.1e}', flush=True)
        except Exception as error:  # whatever is wrong with a case, the others still run
            failed += 1
            print(f'{name:<36}  FAILED  {error}', flush=True)
    if not paths:
        print(
            f'no cases under {options.folder}' + (f' for {options.system}' * bool(options.system))
        )
    print(f'{len(paths) - failed} passed, {failed} failed')
    return 0 if paths and not failed else 1


if __name__ == '__main__':
    # The hosts warn at import about compiled operators that nothing here needs.
    warnings.filterwarnings('ignore', module='mmcv')
    sys.exit(main())
