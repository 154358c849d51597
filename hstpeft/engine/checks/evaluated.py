"""Values of a config that would make a host run code that is in no Python config."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hstpeft.errors import UserError

_NAME = re.compile(r'[\w./:@-]+')
# A host gives these to `eval`: the type of an nms in mmcv, a dtype, the motion model of a tracker.
_EVALUATED = ('type', 'dtype', 'warp_mode')
_RUNNING = {
    'trust_remote_code': 'it runs Python files of the Hugging Face hub: install that code',
    'diffusion_cfg': 'it calls whatever the file names as target',
}


def check_evaluated(cfg: Mapping[str, Any]) -> None:
    """Refuse what would let a host evaluate a text or read a pickle.

    Args:
        cfg: A whole config. Registered types are not looked into: they are installed code.

    Raises:
        UserError: Names the key, its value and what it would do.
    """
    for key, name, value in _items(cfg):
        reason = _reason(name, value)
        if reason:
            raise UserError(f'{key} = {value!r} is refused: {reason}')


def _reason(name: str, value: Any) -> str | None:
    """Say what a setting would do; None if it is harmless."""
    is_text = isinstance(value, str)
    if name in _EVALUATED and is_text and not _NAME.fullmatch(value):
        return 'it must be a name, for a host evaluates it as a program'
    if name == 'type' and is_text and value.endswith('RFSearchHook'):
        return 'it evaluates names out of a file'
    if name == 'decode_backend' and value == 'pickle':
        return 'it unpickles every image, which can run code: convert them to .npy'
    if name.endswith('_file') and is_text and value.endswith(('.pkl', '.pickle')):
        return 'a pickle can run code when it is read: convert it to JSON where you trust it'
    if name == 'hierarchy_file' and is_text and not value.endswith('.json'):
        return 'it may be a pickle inside, which can run code: convert it to JSON'
    return _RUNNING.get(name) if value else None


def _items(node: Any, where: str = '') -> Iterator[tuple[str, str, Any]]:
    """Yield every key below a node: dotted, its last part, and the value."""
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        items = list(enumerate(node))
    else:
        return
    for key, value in items:
        here = f'{where}.{key}' if where else str(key)
        yield here, str(key), value
        yield from _items(value, here)
