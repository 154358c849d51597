"""Ranges of numbers in a config, by the name of the argument: others are accepted, or fail late.

A name means the same in mmengine and in the hosts; where it does not, it is not listed here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from hstpeft.engine.checks.parts import Part


class Range(NamedTuple):
    """What a number may be.

    Attributes:
        holds: Whether a number lies in it.
        said: The range in words.
    """

    holds: Callable[[float], bool]
    said: str


def _whole(value: float, least: int) -> bool:
    return float(value).is_integer() and value >= least


_COUNT = Range(lambda v: _whole(v, 1), 'a whole number from 1')
_COUNT_OR_NONE = Range(lambda v: _whole(v, 0), 'a whole number from 0')
_COUNT_OR_ALL = Range(lambda v: v == -1 or _whole(v, 1), 'a whole number from 1, or -1')
_POSITIVE = Range(lambda v: v > 0, 'above 0')
_NOT_NEGATIVE = Range(lambda v: v >= 0, 'at least 0')
_SHARE = Range(lambda v: 0 <= v <= 1, 'from 0 to 1')
_RATE = Range(lambda v: 0 <= v < 1, 'from 0 to below 1')
_RATE_OR_NONE = Range(lambda v: v == -1 or 0 <= v < 1, 'from 0 to below 1, or -1')
_LABEL = Range(lambda v: _whole(v, 0) and v <= 255, 'a label from 0 to 255')

_BY_NAME: dict[Range, tuple[str, ...]] = {
    _COUNT: (
        'accumulative_counts', 'base_batch_size', 'batch_size', 'channels', 'conv_out_channels',
        'depth', 'embed_dim',
        'fc_out_channels', 'feat_channels', 'max_epochs', 'max_iters', 'num_classes', 'num_outs',
        'num_stages', 'prefetch_factor', 'roi_feat_size', 'T_max', 'val_interval',
    ),
    _COUNT_OR_NONE: (
        'begin', 'label', 'mask_size', 'max_per_img', 'milestones', 'nms_pre', 'num_convs',
        'num_fcs', 'num_workers', 'opencv_num_threads', 'save_begin', 'seed', 'stacked_convs',
        'val_begin',
    ),
    _COUNT_OR_ALL: ('max_keep_ckpts', 'interval'),
    _POSITIVE: ('gamma', 'layer_decay', 'lr', 'max_norm', 'mlp_ratio', 'power', 'std', 'step_size', 'strides'),
    _NOT_NEGATIVE: (
        'dampening', 'end_factor', 'eps', 'eta_min', 'flat_decay_mult', 'flat_lr_mult', 'loss_weight',
        'min_bbox_size', 'norm_decay_mult', 'size_divisor', 'pad_size_divisor',
        'token_decay_mult', 'weight_decay',
    ),
    _SHARE: (
        'flip_prob', 'iou_threshold', 'label_smooth_val', 'min_pos_iou',
        'momentum', 'neg_iou_thr', 'pos_fraction', 'pos_iou_thr', 'prob', 'score_thr',
        'start_factor', 'mask_thr_binary',
    ),
    _RATE: ('betas', 'drop_path_rate', 'drop_rate', 'mlp_drop_rate', 'side_drop_path_rate'),
    _RATE_OR_NONE: ('dropout_ratio',),
    _LABEL: ('seg_pad_val',),
}  # fmt: skip
RANGES = {name: allowed for allowed, names in _BY_NAME.items() for name in names}
_PACKAGES = ('hstpeft', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'timm', 'torch')
# Below these keys the name means something else.
_OTHERWISE = {
    'interval': ('model.',),
    'momentum': ('model.', 'custom_hooks'),
    'std': ('init_cfg',),
}


def out_of_range(part: Part) -> Iterator[tuple[str, Any, str]]:
    """Yield the options of a part that no run can mean: name, value and what they must be.

    Args:
        part: Of a config. Values that are no numbers are checked elsewhere; in the user's own classes
            a name may mean anything.
    """
    if part.target is not None and part.target.__module__.partition('.')[0] not in _PACKAGES:
        return
    for name, value in part.options.items():
        numbers = [*_numbers(value)]
        if any(math.isnan(number) for number in numbers):
            yield name, value, 'a number'
        elif any(map(math.isinf, numbers)) and name != 'norm_type':
            yield name, value, 'finite'
        allowed = RANGES.get(name)
        if allowed is not None and part.target is None and isinstance(value, (str, bool, Mapping)):
            yield name, value, allowed.said
        if allowed is None or any(f in f'{part.key}.' for f in _OTHERWISE.get(name, ())):
            continue
        if not all(map(allowed.holds, filter(math.isfinite, numbers))):
            yield name, value, allowed.said
    yield from _disagreements(part)


def _disagreements(part: Part) -> Iterator[tuple[str, Any, str]]:
    """Compare options of a part with each other."""
    options = part.options
    begin, end = options.get('begin', 0), options.get('end')
    if _is_number(begin) and _is_number(end) and end <= begin:
        yield 'end', end, f'above begin, {begin}'
    mean, std = options.get('mean'), options.get('std')
    scale = options.get('scale')
    is_one_size = isinstance(scale, (list, tuple)) and all(map(_is_number, scale))
    if '.pipeline.' in part.key and is_one_size and len(scale) != 2:
        yield 'scale', scale, 'two numbers, (width, height)'
    if part.name == 'data_preprocessor':
        for name, value in (('mean', mean), ('std', std)):
            if value is not None and not isinstance(value, (list, tuple)):
                yield name, value, 'a list of one number per channel'
    if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and len(mean) != len(std):
        yield 'std', std, f'of as many numbers as mean {mean}'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a value and of the lists in it."""
    if _is_number(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)
