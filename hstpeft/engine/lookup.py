"""How a `type` in no registry is found: nothing is imported for it but installed packages."""

import importlib.metadata
import importlib.util
import inspect
import json
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from mmengine import registry
from mmengine.registry import Registry
from torch import nn


def find_by_path(name: str) -> Any:
    """Find what a `type` names by its path in Python, if a config may build that.

    Nothing is imported: mmengine's own search imports any module and takes any function.

    Args:
        name: e.g. ``torch.nn.GELU``, or ``mmengine.hooks.EMAHook``.

    Returns:
        A module or an optimiser of torch, or what is registered; else None.
    """
    parts = name.split('.')
    found = None
    for end in range(len(parts) - 1, 0, -1):
        found = sys.modules.get('.'.join(parts[:end]))
        if found is not None:
            for part in parts[end:]:
                found = getattr(found, part, None)
            break
    if name.startswith(('torch.nn.', 'torch.optim.')) and inspect.isclass(found):
        return found if issubclass(found, (nn.Module, torch.optim.Optimizer)) else None
    roots = [item for item in vars(registry).values() if isinstance(item, Registry)]
    return found if any(found is item for item in _registered(roots)) else None


def import_installed(name: str) -> ModuleType:
    """Import a module for mmengine, which takes the first part of every `type` for a package.

    Raises:
        ImportError: It belongs to no installed package and to none that is in use: a folder that
            happens to lie on Python's path.
    """
    package = name.partition('.')[0]
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin or not _is_installed(Path(spec.origin).resolve()):
            raise ImportError(f'{package} is no installed package')
    return importlib.import_module(name)


def _is_installed(file: Path) -> bool:
    """Whether pip has put a package where it is, or installed it from there as editable."""
    homes = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
    homes |= {*site.getsitepackages(), site.getusersitepackages()}
    if file.parents[1] in {Path(home).resolve() for home in homes}:
        return True
    return any(file.is_relative_to(folder) for folder in _editable_folders(homes))


def _editable_folders(homes: set[str]) -> Iterator[Path]:
    """Yield the folders of the projects that are installed as editable, by new pips and by old ones."""
    for distribution in importlib.metadata.distributions(path=[*homes]):
        origin = json.loads(distribution.read_text('direct_url.json') or '{}')
        if origin.get('dir_info', {}).get('editable'):
            yield Path(url2pathname(urlsplit(origin['url']).path)).resolve()
    for home in homes:
        for link in Path(home).glob('*.egg-link'):
            yield Path(link.read_text().splitlines()[0]).resolve()


def _registered(registries: Iterable[Registry]) -> Iterator[Any]:
    for item in registries:
        yield from item.module_dict.values()
        yield from _registered(item.children.values())
