"""Loading a config and its overrides, with the nearest name for what does not exist."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine.registry as root
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hstpeft.errors import UserError, nearest

COMPOSED = ('trunk', 'tuner', 'img_norm', 'num_classes', 'ignore_index')
"""Parts that a leaf has copied into the model: changing them afterwards changes nothing."""
# Read by mmengine's tools and runner beside the runner's own arguments.
_TOP_LEVEL = {
    'auto_scale_lr', 'custom_imports', 'find_unused_parameters', 'launcher', 'model_wrapper_cfg',
    'runner_type', 'sync_bn', 'activation_checkpointing',
}  # fmt: skip
_FREE = {'arch_options', 'meta', 'metainfo', 'optimizer', 'clip_grad', 'init_kwargs'}
_LOADERS = {'train_dataloader', 'val_dataloader', 'test_dataloader'}
_EVALUATORS = ('val_evaluator', 'test_evaluator')


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and merge dotted overrides into it.

    Args:
        path: A ``.py`` config.
        overrides: ``{'model.backbone.tuner.num_meta_tokens': 2}`` and the like.

    Raises:
        UserError: The file is missing or broken, or an override names nothing; the message gives
            the nearest name.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        raise UserError(f'config {path} does not exist: {nearest(path.name, siblings)}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: anything can be wrong in it
        raise UserError(f'config {path}: {error}') from error
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    for key in overrides or {}:
        check_override(cfg, key)
    cfg.merge_from_dict(dict(overrides or {}))
    return cfg


def check_override(cfg: Config, key: str) -> None:
    """Raise if a dotted key names nothing that the config's parts would read.

    Raises:
        UserError: With the nearest name, or the key that has the effect.
    """
    first, _, rest = key.partition('.')
    targets = _copies(cfg, first) if first in COMPOSED and first in cfg else []
    if targets:
        tail = f'.{rest}' if rest else ''
        raise UserError(
            f'--cfg-options {key} would change nothing, since the model has been composed from '
            f'it: set {" and ".join(target + tail for target in targets)}'
        )
    known = {*inspect.signature(Runner).parameters, *_TOP_LEVEL}
    if first in cfg and first not in known:
        raise UserError(
            f'--cfg-options {key} would change nothing: {first} has been read while the config was '
            'composed; set the keys of model, data loaders or optimiser that were made from it'
        )
    node: Any = cfg.to_dict()
    for depth, part in enumerate(key.split('.')):
        if isinstance(node, Sequence) and not isinstance(node, str):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f'--cfg-options {key}: {part} is not an index below {len(node)}')
            node = node[int(part)]
            continue
        if not isinstance(node, Mapping):
            raise UserError(f'--cfg-options {key}: {part} is below a plain value')
        if depth:
            known = _arguments(node, key.split('.')[depth - 1])
        if part not in node and known is not None and part not in known:
            hint = nearest(part, {*known, *node})
            raise UserError(f'--cfg-options {key}: there is no {part}, {hint}')
        if part not in node:
            return
        node = node[part]


def _copies(cfg: Config, name: str) -> list[str]:
    """List the keys of a config that were made from one of `COMPOSED`."""
    model = cfg.get('model') or {}
    if name in ('trunk', 'tuner'):
        return [f'model.backbone.{name}'] if name in (model.get('backbone') or {}) else []
    if name == 'img_norm':
        return ['model.data_preprocessor'] if 'data_preprocessor' in model else []
    found = list(_keys_named(name, {'model': model}))
    if name == 'ignore_index':  # batches are padded with it
        found += _keys_named('seg_pad_val', {'model': model})
    for part in (*sorted(_LOADERS), *_EVALUATORS):
        found += _keys_named(name, {part: cfg.get(part)})
    return found


def _keys_named(name: str, node: Any, where: str = '') -> Iterator[str]:
    """Yield the dotted keys at which a name stands."""
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, Sequence) and not isinstance(node, str):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        here = f'{where}.{key}' if where else str(key)
        if key == name:
            yield here
        yield from _keys_named(name, value, here)


def _arguments(node: Mapping, name: str) -> set[str] | None:
    """Names that a config dict may hold; None if any."""
    if name in _FREE:
        return None
    if name in _LOADERS:
        return {*inspect.signature(DataLoader).parameters}
    if 'type' not in node:
        return set(node)
    target = find_class(node['type'])
    if target is None:
        return None
    parameters = inspect.signature(target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def find_class(kind: Any) -> Any:
    """Find a registered class by its type name in any of mmengine's registries, else None."""
    if not isinstance(kind, str):
        return kind
    for name in dir(root):
        registry = getattr(root, name)
        if isinstance(registry, root.Registry):
            with registry.switch_scope_and_registry(None) as scoped:
                found = scoped.get(kind)
            if found is not None:
                return found
    return None
