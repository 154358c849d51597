"""Look at, convert, merge and average deltas.

python tools/delta.py info FILE
python tools/delta.py export CHECKPOINT OUT.safetensors     (weights + OUT.json)
python tools/delta.py import IN.safetensors OUT.pth
python tools/delta.py merge CONFIG DELTA OUT.safetensors    (whole trunk, timm's names)
python tools/delta.py merge-average A B [...] OUT [--weights 0.7 0.3]    (one delta of several)
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import Tensor

from hstpeft.apis import init_model
from hstpeft.delta import describe, load_checkpoint, make_delta, save_delta
from hstpeft.delta.average import average_deltas
from hstpeft.delta.digest import digest
from hstpeft.delta.merge import merge as merge_model
from hstpeft.delta.writing import write_file
from hstpeft.engine.launch import OptionAction, add_safe_config, add_trust
from hstpeft.errors import UserError, one_line_errors
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.plain_timm import feature_change, timm_arguments, write_call

_TIMM_EQUAL = 1e-3


def info(options: argparse.Namespace) -> None:
    """Print what a delta or checkpoint holds."""
    checkpoint = load_checkpoint(options.file, options.trust_checkpoint)
    state = checkpoint['state_dict']
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for key, tensor in state.items():
        owner = '.'.join(key.split('.')[: 2 if key.startswith('backbone.') else 1])
        sizes[owner] += tensor.numel()
        counts[owner] += 1
    table = Table('owner', 'tensors', 'values')
    for owner in sorted(sizes):
        table.add_row(owner, str(counts[owner]), f'{sizes[owner]:,}')
    console = Console(width=100)
    console.print(table)
    kind = 'training checkpoint' if 'optimizer' in checkpoint else 'delta'
    facts = {'file': options.file, 'kind': kind, 'bytes': Path(options.file).stat().st_size}
    facts['sha256'] = f'{digest(checkpoint)} (of the contents)'
    for name, value in {**facts, **describe(state)}.items():
        console.print(f'{name}: {value}', highlight=False, soft_wrap=True)
    for part in checkpoint.get('meta', {}).get('averaged', ()):
        line = f'average of: {part["weight"]:.4g} x {part["file"]} (sha256 {part["sha256"][:12]})'
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def export(options: argparse.Namespace) -> None:
    """Write a delta as safetensors, with its metadata as JSON beside it."""
    if options.output.suffix != '.safetensors':
        raise UserError(f'OUT {options.output} must end in .safetensors')
    delta = make_delta(load_checkpoint(options.file, options.trust_checkpoint))
    size = save_delta(delta, options.output)
    sidecar = options.output.with_suffix('.json')
    write_file(sidecar, json.dumps(delta['meta'], indent=2) + '\n')
    print(f'{options.output} ({size:,} bytes), {sidecar}')


def import_(options: argparse.Namespace) -> None:
    """Turn an exported delta into one that mmengine's tools load."""
    if options.output.suffix != '.pth':
        raise UserError(f'OUT {options.output} must end in .pth')
    delta = make_delta(load_checkpoint(options.file, options.trust_checkpoint))
    print(f'{options.output} ({save_delta(delta, options.output):,} bytes)')


def merge(options: argparse.Namespace) -> None:
    """Fold a delta into its trunk, prove it on random images, and write the trunk."""
    if options.output.suffix != '.safetensors':
        raise UserError(f'OUT {options.output} must end in .safetensors')
    model = init_model(
        options.config,
        options.file,
        'cpu',
        options.cfg_options,
        safe_config=options.safe_config,
        trust=options.trust_checkpoint,
    ).float()  # whatever frozen tensors are held in, the fold is exact
    trunk, merged = merge_model(model)
    # Frozen as the merged one is: what is compared is the fold, not two kernels.
    model.requires_grad_(False)
    own = model.backbone.trunk
    size = [n * pixels for n, pixels in zip(own.grid_size, own.patch_size, strict=True)]
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (model(images, mode='tensor') - merged(images, mode='tensor')).abs().max()
    write_file(options.output, save({name: tensor.contiguous() for name, tensor in trunk.items()}))
    print(f'max|delta logit| = {change:.1e}')
    _show_loading(merged.backbone.trunk, options.output, images)


def _show_loading(trunk: Trunk, output: Path, images: Tensor) -> None:
    """Print how a merged trunk is loaded, after timm's model of the file has been compared."""
    try:
        arguments = timm_arguments(trunk)
        change = feature_change(trunk, arguments, output, images)
        print(f'{write_call(arguments, output)}\nmax|delta feature| = {change:.1e}')
        how = 'with timm, or as' if change < _TIMM_EQUAL else 'not with timm, but as'
    except UserError as error:
        how = f'not with timm, for {error}, but as'
    options = {**trunk.arch_options, **trunk.timm_options()}
    said = '' if options == trunk.arch_options else f' with trunk.arch_options={options}'
    print(f'{output} (load {how} trunk.weights{said})')


def merge_average(options: argparse.Namespace) -> None:
    """Average deltas of one kind; factors (LoRA) are averaged, which is not their product's average."""
    if options.output.suffix not in ('.pth', '.safetensors'):
        raise UserError(f'OUT {options.output} must end in .pth or .safetensors')
    if options.output.exists():
        raise UserError(f'OUT {options.output} exists: the last file is the one to be written')
    deltas = [load_checkpoint(file, options.trust_checkpoint) for file in options.files]
    average = average_deltas(deltas, options.files, options.weights)
    for part in average['meta']['averaged']:
        print(f'{part["weight"]:.4g} x {part["file"]}')
    print(f'{options.output} ({save_delta(average, options.output):,} bytes)')


def main(arguments: list[str] | None = None) -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description='Look at, convert, merge and average deltas.')
    commands = parser.add_subparsers(
        required=True, metavar='info|merge|merge-average|export|import'
    )
    for name, function in (
        ('info', info),
        ('export', export),
        ('import', import_),
        ('merge', merge),
        ('merge-average', merge_average),
    ):
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(run=function)
        if name == 'merge':
            command.add_argument('config', help='config the delta was trained with')
            command.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
            add_safe_config(command)
        if name == 'merge-average':
            command.add_argument('files', nargs='+', help='deltas or training checkpoints')
            text = 'one for each, none negative, in any unit; default: all the same'
            command.add_argument('--weights', nargs='+', type=float, help=text)
        else:
            command.add_argument('file', help='delta or training checkpoint')
        add_trust(command)
        if name != 'info':
            command.add_argument('output', type=Path, help='file to write')
    options = parser.parse_args(arguments)
    with one_line_errors('delta.py'):
        options.run(options)


if __name__ == '__main__':
    main()
