"""The parts of a config: each mapping with its key, and the class that takes its keys as arguments."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import mmengine.registry as root
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class Part(NamedTuple):
    """A mapping inside a config.

    Attributes:
        key: Dotted; empty for the config itself.
        options: The mapping.
        target: The class or function that is built from it; None where that is not known.
    """

    key: str
    options: Mapping
    target: Any = None

    @property
    def name(self) -> str:
        """Last part of the key that is no index."""
        names = [name for name in self.key.split('.') if not name.isdigit()]
        return names[-1] if names else ''


def parts_of(cfg: Mapping) -> Iterator[Part]:
    """Yield all mappings of a config that the runner reads, the config itself first."""
    yield Part('', cfg, Runner)
    # The last is read out of the config, and is no argument.
    read = {*inspect.signature(Runner).parameters, 'model_wrapper_cfg'}
    for key in read & cfg.keys() - {'cfg'}:
        yield from _below(key, cfg[key])


def _below(key: str, node: Any) -> Iterator[Part]:
    if isinstance(node, Mapping):
        yield Part(key, node, target_of(key, node))
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return
    for name, value in items:
        yield from _below(f'{key}.{name}', value)


def target_of(key: str, options: Mapping) -> Any:
    """Find what is built from the mapping at a key of a config; None where that is not known."""
    if key in LOADERS:
        return DataLoader
    kind = options.get('type', _default_type(key, options))
    if isinstance(kind, str):
        return _only_class(kind, _scope())
    return kind if callable(kind) else None


def _scope() -> str | None:
    current = DefaultScope.get_current_instance()
    return None if current is None else current.scope_name


def _default_type(key: str, options: Mapping) -> str | None:
    """Name the class that mmengine takes where a config names none."""
    if key == 'train_cfg':
        return 'EpochBasedTrainLoop' if options.get('by_epoch', True) else 'IterBasedTrainLoop'
    return {
        'val_cfg': 'ValLoop',
        'test_cfg': 'TestLoop',
        'optim_wrapper': 'OptimWrapper',
        'log_processor': 'LogProcessor',
    }.get(key)


@functools.cache
def _only_class(kind: str, scope: str | None) -> Any:
    """Find the one class of a type name in mmengine's registries; None if there are none or two.

    Args:
        kind: e.g. ``mmseg.FPNHead``.
        scope: The default scope, which is in force already: a part of the cache's key.
    """
    found = {*classes_named(kind)}
    return found.pop() if len(found) == 1 else None


def classes_named(kind: str) -> Iterator[Any]:
    """Yield what is registered under a type name, in each of mmengine's registries that knows it."""
    scope = DefaultScope.get_current_instance()
    with root.MODELS.switch_scope_and_registry(None):  # imports the registries of the scope
        pass
    for registry in vars(root).values():
        if isinstance(registry, root.Registry):
            # Not by another switch: it warns of each registry that the scope has none of.
            scoped = registry.children.get(scope and scope.scope_name, registry)
            found = scoped.get(kind)
            if found is not None:
                yield found
