"""One context within which mmengine and the hosts run no code from a file.

By itself mmengine unpickles a checkpoint that it cannot read safely, reads YAML with tags that call
functions, unpickles annotations, and builds whatever `type` a config names, `os.system` too.
"""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml
from mmengine.fileio.handlers import PickleHandler, YamlHandler, file_handlers
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError
from safetensors.torch import load

from hstpeft.compat import checkpoint_schemes
from hstpeft.delta.plain import plain_classes
from hstpeft.delta.reading import open_source, read_torch
from hstpeft.engine.lookup import find_by_path, import_installed
from hstpeft.errors import UserError
from hstpeft.fetch import download, sha256_of

Reader = Callable[[str, Any], Any]
"""A path and mmengine's ``map_location`` -> what the file holds."""
_PLAIN_ONLY, _UNSAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


@contextmanager
def safe_io(read: Reader | None = None) -> Iterator[None]:
    """Let no file run code through mmengine or a host, for as long as this is entered.

    * Checkpoints (``init_cfg=dict(type='Pretrained', ...)`` too) are read by ``read``, or downloaded
      over https and read by `read_plain`; any other call of `torch.load` gets plain data or an error,
      whatever it asks for.
    * YAML is plain data; pickles are refused.
    * A `type` that no registry knows is looked up by `find_by_path`, which runs nothing; its scope is
      imported by `import_installed`.

    The settings hold for the whole process. The previous ones are restored on leaving, so that one may
    be entered within another.

    Args:
        read: Reads local checkpoints; default: `read_plain`.
    """
    checkpoints = sys.modules[CheckpointLoader.__module__]
    registries = sys.modules[Registry.__module__]
    readers = {'': read or load_from_disk} | dict.fromkeys(('http://', 'https://'), load_from_https)
    plain, refused = _PlainYaml(), _NoPickle()
    handlers = {'yaml': plain, 'yml': plain, 'pickle': refused, 'pkl': refused}
    with ExitStack() as stack:
        stack.enter_context(_readers(readers))
        stack.enter_context(_items(file_handlers, handlers))
        # The function that `torchvision://` and other tables of addresses end in.
        stack.enter_context(_items(vars(checkpoints), {'load_from_http': load_from_https}))
        search = {'get_object_from_string': find_by_path, 'import_module': import_installed}
        stack.enter_context(_items(vars(registries), search))
        stack.enter_context(_items(os.environ, {_PLAIN_ONLY: '1', _UNSAFE: '0'}))
        yield


def read_plain(path: str | os.PathLike) -> Any:
    """Read a checkpoint of any origin, e.g. a plain dict of tensors, to the CPU.

    Raises:
        UserError: The file is missing, damaged, or holds more than plain data.
    """
    path = Path(path).expanduser()
    what = f'checkpoint {path}'
    with open_source(path, what) as file:
        if path.suffix != '.safetensors':
            # What mmengine's own checkpoints hold beside tensors, and those of MAE and DeiT.
            return read_torch(file, what, [*plain_classes(), argparse.Namespace])
        try:
            return load(file.read())
        except SafetensorError as error:
            raise UserError(f'{what} cannot be read safely: {error}') from error


def load_from_disk(path: str, map_location: Any = None) -> Any:
    """Stand in for mmengine's reader of local checkpoints; the tensors stay on the CPU."""
    return read_plain(path)


def load_from_https(
    url: str, map_location: Any = None, model_dir: str | None = None, progress: bool = False
) -> Any:
    """Stand in for mmengine's download of checkpoints.

    ``https://HOST/FILE#sha256=DIGEST`` names the content; without it the server is trusted, with a
    warning.

    Raises:
        UserError: The file cannot be downloaded, is another one, or holds more than plain data.
    """
    address, _, fragment = url.partition('#')
    sha256 = fragment.removeprefix('sha256=') if fragment else None
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    root = Path(os.environ.get('HSTPEFT_CACHE') or Path(cache, 'hstpeft'), 'downloads')
    # A folder for each address: two servers may have files of one name.
    path = download(address, root / hashlib.sha256(address.encode()).hexdigest()[:16], sha256)
    if sha256 is None:
        hint = f'{address}#sha256={sha256_of(path)}'
        print_log(f'{address} is not pinned to a content: write {hint}', 'current', logging.WARNING)
    return read_plain(path)


class _PlainYaml(YamlHandler):
    """YAML whose tags call nothing."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> Any:
        """Read plain data."""
        try:
            return yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise UserError(
                f'YAML {getattr(file, "name", "")} is no plain data: {error}'
            ) from error


class _NoPickle(PickleHandler):
    """Pickles, which may be written but not read."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> NoReturn:
        """Refuse."""
        name = getattr(file, 'name', 'a file')
        raise UserError(
            f'{name} is a pickle, which can run code when it is read: convert it to JSON where you '
            'trust it'
        )


@contextmanager
def _readers(readers: Mapping[str, Reader]) -> Iterator[None]:
    before = checkpoint_schemes(CheckpointLoader)
    _register(readers)
    try:
        yield
    finally:
        _register({prefix: before[prefix] for prefix in readers})


def _register(readers: Mapping[str, Reader]) -> None:
    for prefix, reader in readers.items():
        CheckpointLoader.register_scheme(prefix, reader, force=True)


@contextmanager
def _items(mapping: MutableMapping, items: Mapping) -> Iterator[None]:
    """Set items of a mapping, and put back afterwards what was there."""
    before = {key: mapping[key] for key in items if key in mapping}
    mapping.update(items)
    try:
        yield
    finally:
        for key in items:
            del mapping[key]
        mapping.update(before)
