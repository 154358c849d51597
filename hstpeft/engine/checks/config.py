"""Overrides of a config: the nearest name for what does not exist, the remedy for what is too late."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from hstpeft.engine.checks.parts import LOADERS, Part, classes_named, target_of
from hstpeft.engine.checks.plain import known_keys, resembling_keys
from hstpeft.errors import UserError, nearest

WIDTHS = ('embed_dims', 'stage_dims')
"""What a trunk part says of its trunk, for neck and head."""
COMPOSED = ('trunk', 'tuner', 'neck', *WIDTHS, 'img_norm', 'num_classes', 'ignore_index')
"""Parts that a leaf has copied into the model: changing them afterwards changes nothing."""
# Read by mmengine's tools and runner beside the runner's own arguments.
_TOP_LEVEL = {
    'auto_scale_lr', 'custom_imports', 'find_unused_parameters', 'launcher', 'model_wrapper_cfg',
    'runner_type', 'sync_bn', 'activation_checkpointing', 'compile',
}  # fmt: skip
RUNNER_KEYS = frozenset({*inspect.signature(Runner).parameters, *_TOP_LEVEL})
"""Top-level keys that have an effect by themselves."""
_FREE = {'arch_options', 'meta', 'metainfo', 'optimizer', 'clip_grad', 'init_kwargs'}
# Taken out of a mapping before its class is built from it.
_ASIDE = {
    'custom_hooks': ('priority',),
    'default_hooks': ('priority',),
    'optim_wrapper': ('constructor', 'paramwise_cfg'),
    'train_cfg': ('by_epoch',),
}
_EVALUATORS = ('val_evaluator', 'test_evaluator')


def check_override(cfg: Config, key: str) -> None:
    """Raise if a dotted key names nothing that the config's parts would read.

    Raises:
        UserError: With the nearest name, or the key that has the effect.
    """
    first, _, rest = key.partition('.')
    if (first in cfg and first not in RUNNER_KEYS) or _copies(cfg, first):
        raise UserError(f'--cfg-options {key} would change nothing{remedy(cfg, first, rest)}')
    node: Any = cfg.to_dict()
    for depth, part in enumerate(key.split('.')):
        if isinstance(node, Sequence) and not isinstance(node, str):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f'--cfg-options {key}: {part} is not an index below {len(node)}')
            node = node[int(part)]
            continue
        if not isinstance(node, Mapping):
            raise UserError(f'--cfg-options {key}: {part} is below a plain value')
        known = _arguments(cfg, node, '.'.join(key.split('.')[:depth])) if depth else RUNNER_KEYS
        if part not in node and known is not None and part not in known:
            hint = nearest(part, {*known, *node})
            raise UserError(f'--cfg-options {key}: there is no {part}, {hint}')
        if part not in node:
            return
        node = node[part]


def remedy(cfg: Config, key: str, rest: str = '') -> str:
    """Say why setting a key that has been read already changes nothing, and what to set instead.

    Args:
        cfg: The whole config.
        key: A top-level key that the runner does not read.
        rest: Dotted keys below it.
    """
    targets = [f'{target}.{rest}' if rest else target for target in _copies(cfg, key)]
    if targets:
        return f', since the model has been composed from it: set {" and ".join(targets)}'
    return (
        f': {key} has been read while the config was composed; set the keys of model, data loaders '
        'or optimiser that were made from it'
    )


def _copies(cfg: Config, name: str) -> list[str]:
    """List the keys of a config that were made from one of `COMPOSED`; none of any other name."""
    model = cfg.get('model') or {}
    if name in ('trunk', 'tuner'):
        part = (model.get('backbone') or {}).get(name)
        return [] if part is None else _part_copies(f'model.backbone.{name}', part, cfg.get(name))
    if name in ('neck', 'img_norm'):
        part = 'data_preprocessor' if name == 'img_norm' else name
        return [f'model.{part}'] if part in model else []
    if name in WIDTHS:
        return _width_copies(model, cfg.get(name))
    if name not in COMPOSED:
        return []
    found = [*keys_named(name, {'model': model})]
    if name == 'ignore_index':  # batches are padded with it
        found += keys_named('seg_pad_val', {'model': model})
    for part in (*sorted(LOADERS), *_EVALUATORS):
        found += keys_named(name, {part: cfg.get(part)})
    return [key for key, _ in found]


def _part_copies(key: str, part: Any, source: Any) -> list[str]:
    """Name a part of a backbone that was made from another key, or its place in a list of tuners."""
    if isinstance(part, Mapping) or not isinstance(source, Mapping):
        return [key]
    kind = source.get('type')
    return [f'{key}.{index}' for index, tuner in enumerate(part) if tuner.get('type') == kind]


def _width_copies(model: Mapping, width: int | Sequence[int] | None) -> list[str]:
    """List the keys of a model that hold the width of its trunk, or the widths of its stages."""
    backbone = model.get('backbone') or {}
    tuners = backbone.get('tuner') or []
    tuners = [tuners] if isinstance(tuners, Mapping) else tuners
    if any('side_dims' in tuner for tuner in tuners):  # its maps are the tuner's
        return []
    values = [width, [width] * 4] if isinstance(width, int) else [width]
    readers = {'neck'} & model.keys() or model.keys() - {'backbone'}
    parts = {'model': {key: value for key, value in model.items() if key != 'backbone'}}
    found = [*keys_named('in_channels', parts), *keys_named('out_channels', parts)]
    first = {f'model.{reader}.in_channels' for reader in readers}
    return [key for key, value in found if key in first or value in values]


def keys_named(name: str, node: Any, where: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys at which a name stands, with their values."""
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, Sequence) and not isinstance(node, str):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        here = f'{where}.{key}' if where else str(key)
        if key == name:
            yield here, value
        yield from keys_named(name, value, here)


def _arguments(cfg: Mapping, node: Mapping, key: str) -> set[str] | None:
    """Names that the config dict at a dotted key may hold; None if any."""
    part = Part(key, node, target_of(key, node))
    if part.name in _FREE:
        return None
    known = known_keys(part, cfg)
    if known is not None:
        return {*known}
    if part.target is None:
        return None if 'type' in node else {*node, *resembling_keys(part)}
    parameters = inspect.signature(part.target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters} | {'type', '_scope_', *_ASIDE.get(key.split('.')[0], ())}


def find_class(kind: Any) -> Any:
    """Find a registered class by its type name in any of mmengine's registries, else None."""
    return next(classes_named(kind), None) if isinstance(kind, str) else kind
