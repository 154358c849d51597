"""Random mistakes in a config: each is wrong for certain, and knows which key it broke."""

import math
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hstpeft.engine.checks.config import COMPOSED, RUNNER_KEYS

REMOVED = object()
"""Stands for a key that is taken away."""


class Mistake(NamedTuple):
    """A wrong setting.

    Attributes:
        kind: Name of the function that made it.
        key: Dotted key.
        value: What it is set to.
        raw: What is typed instead of ``KEY=VALUE``, if not that.
    """

    kind: str
    key: str
    value: Any
    raw: tuple[str, ...] = ()


# What is not trained with, names things freely, or is made anew by the tool itself.
_SKIPPED = (
    'test_cfg', 'test_dataloader', 'test_evaluator', 'work_dir', 'experiment_name', 'vis_backends',
    'metainfo.palette', 'launcher', 'cfg', 'test_pipeline', 'auto_scale_lr.base_batch_size',
)  # fmt: skip
_OUTSIDE: dict[str, tuple] = {
    'T_max': (0, -3),
    'accumulative_counts': (0, -1),
    'base_batch_size': (0, -4),
    'batch_size': (0, -2),
    'begin': (-1,),
    'channels': (0, -8),
    'dropout_ratio': (1.5,),
    'end': (-1,),
    'eta_min': (-0.1,),
    'flat_decay_mult': (-1.0,),
    'in_channels': (-3, 0),
    'interval': (0, -5),
    'iou_threshold': (-0.2, 1.7),
    'loss_weight': (-1.0,),
    'lr': (-1e-3, 0.0),
    'max_epochs': (-1, 0),
    'max_iters': (-5, 0),
    'max_keep_ckpts': (0, -3),
    'max_norm': (-1.0, 0.0),
    'num_classes': (0, -1),
    'num_outs': (0, -1),
    'num_samples': (0, -4),
    'num_workers': (-1,),
    'out_channels': (0, -16),
    'prob': (1.5, -0.2),
    'score_thr': (-0.1, 1.4),
    'seed': (-1,),
    'stacked_convs': (-1,),
    'start_factor': (2.0, -0.5),
    'std': ([0.0, 1.0, 1.0], [-1.0] * 3, 3.7),
    'token_decay_mult': (-0.5,),
    'val_interval': (0, -1),
    'weight_decay': (-0.05,),
    'depth': (0, -2),
    'embed_dim': (0, 33, -32),
    'img_size': ([1, 2], 8, 0),
    'num_heads': (0, 5),
    'side_dims': ([0, 8, 16, 16], [8, 8, 16, -16]),
    'side_heads': ([3, 2, 4, 4], [0, 2, 4, 4]),
}
_LENGTHS = (
    'mean', 'std', 'side_dims', 'side_heads', 'in_channels', 'in_index', 'scale', 'crop_size',
    'target_means', 'target_stds', 'feature_strides', 'ratio_range',
)  # fmt: skip
_REQUIRED = (
    'model.type', 'model.backbone.type', 'model.backbone.trunk.arch', 'model.backbone.trunk.type',
    'model.backbone.tuner.type', 'model.head.num_classes', 'model.decode_head.channels',
    'model.decode_head.in_channels', 'model.bbox_head.num_classes', 'model.neck.in_channels',
    'model.roi_head.mask_head.type', 'model.rpn_head.anchor_generator.strides',
    'optim_wrapper.optimizer.type', 'optim_wrapper.optimizer', 'train_dataloader.dataset',
    'train_dataloader.dataset.type', 'train_cfg.max_epochs', 'train_cfg.max_iters',
    'default_hooks.checkpoint.type', 'val_evaluator.type',
)  # fmt: skip
_PATHS = (
    'train_dataloader.dataset.data_root', 'val_dataloader.dataset.data_root',
    'train_dataloader.dataset.ann_file', 'val_evaluator.ann_file', 'load_from',
    'model.backbone.trunk.weights', 'train_dataloader.dataset.data_prefix.img_path',
    'train_dataloader.dataset.data_prefix.seg_map_path', 'train_dataloader.dataset.data_prefix.img',
)  # fmt: skip
_SWITCHED = (
    ('default_scope', 'nonsense'),
    ('log_level', 'LOUD'),
    ('env_cfg.mp_cfg.mp_start_method', 'frok'),
    ('env_cfg.xyz', 3),
    ('env_cfg.mp_cfg.opencv_threads', 3),
    ('auto_scale_lr.enabl', True),
    ('randomness.sed', 3),
    ('val_cfg', None),
    ('val_dataloader', None),
    ('train_dataloader', None),
    ('optim_wrapper', None),
    ('train_cfg', None),
    ('resume', True),
    ('model.backbone.out_indices', [0, 1, 9]),
    ('model.backbone.out_type', 'cls_tokn'),
    ('model.backbone.trunk.dtype', 'float23'),
    ('model.backbone.tuner.tap_indices', [0, 1, 2, 9]),
    ('model.backbone.tuner.num_meta_tokens', 0),
    ('model.backbone.tuner.mlp_ratio', -4.0),
    ('model.backbone.tuner.side_drop_path_rate', 1.5),
    ('model.backbone.tuner.stem_norm', 'XN'),
    ('model.backbone.init_cfg', {'type': 'Pretrained', 'checkpoint': 'nowhere.pth'}),
    ('optim_wrapper.optimizer.betas', [0.9, 1.5]),
    ('optim_wrapper.optimizer.betas', [0.9]),
    ('optim_wrapper.clip_grad', {'max_nrm': 1.0}),
    ('optim_wrapper.paramwise_cfg.flat_decay_mul', 0.0),
    ('optim_wrapper.constructor', 'hstpeft.DeltaOptimWrapperConstrutor'),
    ('train_dataloader.sampler.shufle', True),
    ('train_dataloader.batchsize', 4),
    ('default_hooks.checkpont', {'type': 'CheckpointHook', 'interval': 1}),
    ('model_wrapper_cfg.type', 'hstpeft.DeviceAwareDPD'),
)


def mistakes(config: Mapping[str, Any], rng: random.Random) -> Iterator[Mistake]:
    """Yield random mistakes of a sound config for ever, all kinds in turn.

    Args:
        config: Plain mappings.
        rng: What it draws from.
    """
    leaves = [*_settings(config)]
    while True:
        for make in KINDS:
            found = make(config, leaves, rng)
            if found is not None:
                yield found


def _settings(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield keys and values at any depth that a training reads."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, value in items:
        here = f'{key}.{name}' if key else str(name)
        if (not key and name not in RUNNER_KEYS) or here.endswith(_SKIPPED) or name in _SKIPPED:
            continue
        yield here, value
        if isinstance(value, (Mapping, list, tuple)):
            yield from _settings(value, here)


def _get(config: Any, key: str) -> Any:
    for name in key.split('.'):
        if not isinstance(config, Mapping) or name not in config:
            return REMOVED
        config = config[name]
    return config


def _named(leaves: Sequence, names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in leaves if key.rpartition('.')[2] in names]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _misspell(word: str, rng: random.Random) -> str:
    """Drop, double or exchange a letter, of the last part of a dotted word."""
    head, dot, tail = word.rpartition('.')
    place = rng.randrange(len(tail))
    letter = rng.choice(string.ascii_lowercase)
    changed = rng.choice(
        [tail[:place] + tail[place + 1 :], tail[: place + 1] + tail[place:],
         tail[:place] + letter + tail[place + 1 :]]
    )  # fmt: skip
    return word + 'x' if changed in ('', tail) else f'{head}{dot}{changed}'


def misspelt_key(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Write a key with a slip."""
    key, value = rng.choice([leaf for leaf in leaves if not leaf[0].rpartition('.')[2].isdigit()])
    wrong = _misspell(key, rng)
    if wrong in dict(leaves) or key.endswith('.type'):
        return None
    return Mistake('misspelt_key', wrong, value)


def unknown_type(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Write a type with a slip."""
    key, value = rng.choice([(k, v) for k, v in _named(leaves, ['type']) if isinstance(v, str)])
    return Mistake('unknown_type', key, _misspell(value, rng))


def wrong_kind(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Give a value of another kind."""
    key, value = rng.choice(leaves)
    if isinstance(value, bool):
        return Mistake('wrong_kind', key, rng.choice(['abc', [1, 2]]))
    if _is_number(value):
        return Mistake('wrong_kind', key, rng.choice(['abc', True, {'a': 1}]))
    if isinstance(value, Mapping) and value:
        return Mistake('wrong_kind', key, rng.choice([5, 'abc']))
    if isinstance(value, (list, tuple)) and value and _is_number(value[0]):
        return Mistake('wrong_kind', key, rng.choice(['abc', True]))
    return None


def out_of_range(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give a number that means nothing."""
    key, _ = rng.choice([(k, v) for k, v in _named(leaves, _OUTSIDE) if 'init_cfg' not in k])
    return Mistake('out_of_range', key, rng.choice(_OUTSIDE[key.rpartition('.')[2]]))


def not_finite(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give NaN or infinity for a number."""
    key, _ = rng.choice(
        [(k, v) for k, v in leaves if _is_number(v) and not k.endswith('norm_type')]
    )
    return Mistake('not_finite', key, rng.choice([math.nan, math.inf, -math.inf]))


def wrong_length(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Give a list of numbers one more, or one less."""
    lists = [(k, [*v]) for k, v in _named(leaves, _LENGTHS) if isinstance(v, (list, tuple))]
    if not lists:
        return None
    key, values = rng.choice(lists)
    return Mistake('wrong_length', key, rng.choice([values[:-1], [*values, values[-1]]]))


def missing_key(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Leave out what has no default."""
    there = [key for key in _REQUIRED if _get(config, key) is not REMOVED]
    return Mistake('missing_key', rng.choice(there), REMOVED)


def wrong_path(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Name a file that does not exist."""
    there = [key for key in _PATHS if _get(config, key) is not REMOVED]
    return Mistake('wrong_path', rng.choice([*there, 'load_from']), '/nowhere/at/all.json')


def wrong_channels(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give another number of channels than the part before has."""
    key, value = rng.choice([leaf for leaf in leaves if leaf[0].endswith('in_channels')])
    wrong = [v + 8 for v in value] if isinstance(value, (list, tuple)) else value + 8
    return Mistake('wrong_channels', key, wrong)


def contradiction(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Set what contradicts the rest, or what nobody reads."""
    key, value = rng.choice(_SWITCHED)
    return Mistake('contradiction', key, value) if _get(config, key) != value else None


def set_too_late(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Set a part that the model has been composed from already."""
    key = rng.choice([key for key in COMPOSED if key in config])
    value = config[key]
    return Mistake('set_too_late', key, value + 1 if _is_number(value) else value)


def broken_command(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Type something that is no ``KEY=VALUE``."""
    key, _ = rng.choice(leaves)
    raw = rng.choice(
        [(key, '3'), (key,), ('=3',), (f'{key}=[1,2',), (f'{key}=(1',), (f'{key} =3',)]
    )
    return Mistake('broken_command', key, None, raw)


Kind = Callable[[Mapping, Sequence, random.Random], Mistake | None]
KINDS: tuple[Kind, ...] = (
    misspelt_key, wrong_kind, unknown_type, out_of_range, not_finite, misspelt_key, wrong_length,
    missing_key, wrong_path, wrong_channels, contradiction, set_too_late, wrong_kind,
    broken_command,
)  # fmt: skip
