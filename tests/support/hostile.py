"""Files that run code where they are read without care; what they run makes an empty file."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

CANARY = 'canary'
"""Name of the file that a payload makes in the folder it is told."""


class Payload:
    """Makes the canary file when it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.command = command(folder)

    def __reduce__(self) -> tuple:
        """Run the command."""
        return os.system, (self.command,)


class Attribute:
    """Fetches an attribute of a class that may be loaded, the first step of many attacks."""

    def __reduce__(self) -> tuple:
        """Get a method from which all loaded modules can be reached."""
        return getattr, (HistoryBuffer, '__init__')


def command(folder: Path) -> str:
    """Write a shell command that makes the canary file."""
    return f'touch {folder / CANARY}'


def has_run(folder: Path) -> bool:
    """Whether a payload has run; its trace is removed."""
    found = (folder / CANARY).exists()
    (folder / CANARY).unlink(missing_ok=True)
    return found


def write_pickle(path: Path, folder: Path) -> Path:
    """Write a checkpoint as torch does, with a payload in its metadata."""
    torch.save({'state_dict': {}, 'meta': {'epoch': Payload(folder)}}, path)
    return path


def write_polyglot(path: Path, folder: Path) -> Path:
    """Write a file that is valid safetensors, and a pickle with a payload to whoever unpickles it.

    The eight bytes of the header's length begin with pickle's opcode for a short string. From there
    a chain of such strings, 126 bytes each, leads over the JSON to the tensor, which is the pickle.
    """
    data = pickle.dumps(Payload(folder), protocol=2)
    step = 126
    length = ord('U') + 256 * step  # as the bytes U, 126, 0, 0, 0, 0, 0, 0
    entry = {'dtype': 'U8', 'shape': [len(data)], 'data_offsets': [0, len(data)]}
    start, end = b'{"__metadata__":{"x":"', f'"}},"t":{json.dumps(entry)}}}'.encode()
    head = start + b'a' * (step - 6 - len(start))  # six bytes of the length belong to the string
    links, rest = divmod(length - len(head), step + 2)
    chain = (b'U~' + b'a' * step) * links
    last = b'U' + bytes([rest - 2]) + b'a' * (rest - 2 - len(end)) + end
    header = head + chain + last
    assert len(header) == length
    path.write_bytes(length.to_bytes(8, 'little') + header + data)
    return path


def write_yaml(path: Path, folder: Path, **settings: Any) -> Path:
    """Write a YAML config with a tag that calls a function."""
    call = f'!!python/object/apply:os.system ["{command(folder)}"]'
    path.write_text(
        ''.join(f'{key}: {json.dumps(v)}\n' for key, v in settings.items()) + f'x: {call}\n'
    )
    return path


FILES = {
    'pickle.pth': write_pickle,
    'polyglot.safetensors': write_polyglot,
    'polyglot.pth': write_polyglot,
}
"""File name -> how to write it."""
