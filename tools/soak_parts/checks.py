"""What must hold of an interrupted training: its exit status, its folder, and its end."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstpeft.delta import load_checkpoint
from hstpeft.errors import InterruptedRun, UserError
from tools.soak_parts.victim import Trigger


def status_error(
    status: int | None, trigger: Trigger, trace: list[dict[str, Any]], steps: int
) -> str:
    """Say why an exit status is not what the interruption must lead to; empty if it is.

    Args:
        status: As of `multiprocessing`: negative for a signal that killed the process.
        trigger: What interrupted it.
        trace: What this process has noted.
        steps: Of the whole training.
    """
    if status is None:
        return 'the process hangs'
    fired = [note for note in trace if note['what'] == 'fired']
    stepped = any(note['what'] == 'step' for note in trace)
    sent = {trigger.signal, trigger.second} - {''} if trigger.kind == 'time' else set()
    sent |= {note['signal'] for note in fired}
    allowed = {0}
    for name in sent:
        number = int(getattr(signal, name))
        if name in ('SIGKILL', 'SIGXFSZ'):
            allowed.add(-number)
        else:
            allowed.add(InterruptedRun.exit_status)
        # Before the first step nobody promises to save; a second signal ends it at once.
        if not stepped or len(sent) > 1 or trigger.second in sent:
            allowed |= {-number, 128 + number}
    if trigger.kind == 'step' and fired and trigger.at < steps - 1:
        allowed.discard(0)  # it trained on
    if status in allowed:
        return ''
    return f'exit status {status}, and not one of {sorted(allowed)}, after {sorted(sent)}'


def folder_error(
    work_dir: Path, status: int | None, trace: list[dict[str, Any]], saved: bool
) -> str:
    """Say what is wrong with a work folder after an interruption; empty if nothing is.

    Args:
        work_dir: Of the training.
        status: Its exit status.
        trace: What this process has noted.
        saved: Whether any attempt has completed a save.
    """
    valid = readable(work_dir)
    stopped = status == InterruptedRun.exit_status
    if (saved or stopped) and not valid:
        return f'no checkpoint of {[path.name for path in checkpoints(work_dir)]} can be read'
    last = work_dir / 'last_checkpoint'
    if last.exists() and Path(last.read_text()).name not in [path.name for path in valid]:
        return f'last_checkpoint names {last.read_text()!r}, which cannot be read'
    done = max([note['iter'] + 1 for note in trace if note['what'] == 'step'], default=0)
    if stopped and steps_done(work_dir) < done:
        return f'stopped and saved step {steps_done(work_dir)}, though step {done} was done'
    return ''


def end_error(work_dir: Path, reference: Path) -> str:
    """Say in what a finished training differs from the undisturbed one; empty if in nothing."""
    left = [p.name for p in work_dir.rglob('*') if p.name.endswith('.tmp') or '.tmp.' in p.name]
    if left:
        return f'left behind: {left}'
    if not (work_dir / 'delta.pth').is_file():
        return 'no delta.pth at the end'
    done = readable(work_dir)
    last = newest(reference)
    if last.name not in [path.name for path in done]:
        return f'no readable {last.name} at the end'
    pairs = [(work_dir / 'delta.pth', reference / 'delta.pth')]
    # All that claim to be of the last step, by whatever name.
    pairs += [(path, last) for path, steps in done.items() if steps == max(done.values())]
    for mine, theirs in pairs:
        a, b = load_checkpoint(mine), load_checkpoint(theirs)
        for key in ('state_dict', 'optimizer'):
            different = differences(a.get(key), b.get(key), key)
            if different:
                return f'{mine.name}: {len(different)} values differ: {different[0]}'
    return ''


def differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Return the names of all values that are not the same bits, of nested dicts and lists."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
        return [] if same else [name]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if sorted(map(repr, a)) != sorted(map(repr, b)):
            return [f'{name} (its keys)']
        return [each for key in a for each in differences(a[key], b[key], f'{name}.{key}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [each for i, (x, y) in pairs for each in differences(x, y, f'{name}.{i}')]
    # repr tells 1 from True and 1.0, and finds NaN equal to itself.
    return [] if type(a) is type(b) and repr(a) == repr(b) else [name]


def checkpoints(work_dir: Path) -> list[Path]:
    """Return the training checkpoints of a work folder, whole or not, whatever their names."""
    return sorted(path for path in work_dir.glob('*.pth') if path.name != 'delta.pth')


def readable(work_dir: Path) -> dict[Path, int]:
    """Return the checkpoints that can be read, with the steps done in each."""
    valid = {}
    for path in checkpoints(work_dir):
        try:
            valid[path] = load_checkpoint(path)['meta']['iter']
        except UserError:
            continue  # what the callers count
    return valid


def newest(work_dir: Path) -> Path:
    """Return the readable checkpoint with the most steps done."""
    valid = readable(work_dir)
    return max(valid, key=valid.__getitem__)


def steps_done(work_dir: Path) -> int:
    """Return how many steps are done in the best readable checkpoint."""
    return max(readable(work_dir).values(), default=0)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
