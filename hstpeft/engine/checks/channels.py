"""Does what reads the backbone's maps expect their channels? Torch's own answer names no key.

Only attributes that a host's class declares are compared; what it does not declare is left to it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from hstpeft.errors import UserError
from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.necks import PooledNorm, SimpleFeaturePyramid

_DENSE_HEADS = ('decode_head', 'rpn_head', 'bbox_head', 'roi_head')


class Maps(NamedTuple):
    """What a part hands to the next.

    Attributes:
        channels: Of each map.
        said: The sentence about them in a message.
    """

    channels: tuple[int, ...]
    said: str


def check_channels(model: nn.Module) -> None:
    """Compare the maps of a `TunedBackbone` with the keys of neck and heads that read them.

    For mmpretrain, mmseg and mmdet alike; any other backbone is left alone.

    Raises:
        UserError: ``in_channels`` or ``in_index`` do not fit, or the neck leaves a map with an
            ``out_norm`` unread; names the key, the maps and the value to set.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TunedBackbone):
        return
    _check_form(model, backbone)
    maps: Maps | None = Maps(backbone.out_channels, _describe(backbone))
    for index, (key, neck) in enumerate(_parts(model, 'neck')):
        maps = _check_neck(key, neck, maps)
        if index == 0:
            _check_norms(key, neck, backbone)
        if maps is None:
            return
    for name in ('decode_head', 'auxiliary_head'):
        for key, head in _parts(model, name):
            _check_decode_head(key, head, maps)
    for name in ('rpn_head', 'bbox_head'):
        _check_dense_head(name, getattr(model, name, None), maps)
    _check_roi_head(getattr(model, 'roi_head', None), maps)
    _check_last(f'{_key("head")}.in_channels', getattr(model, 'head', None), maps)


def _key(name: str) -> str:
    return f'model.{name}'


def _parts(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a part under its key, or each of a list of them (two necks, two auxiliary heads)."""
    part = getattr(model, name, None)
    if isinstance(part, (nn.Sequential, nn.ModuleList)):
        yield from ((f'{_key(name)}.{index}', child) for index, child in enumerate(part))
    elif part is not None:
        yield _key(name), part


def _describe(backbone: TunedBackbone) -> str:
    widths = _listed(backbone.out_channels)
    if not backbone.out_strides:
        return f'the backbone gives vectors or tokens of {widths} channels'
    strides = _listed(h if h == w else f'{h} x {w}' for h, w in backbone.out_strides)
    noun = 'strides' if len(backbone.out_strides) > 1 else 'stride'
    return f'the backbone gives maps of {widths} channels at {noun} {strides}'


def _listed(values: Any) -> str:
    return ', '.join(map(str, values))


def _check_form(model: nn.Module, backbone: TunedBackbone) -> None:
    """Dense heads need maps, and a plain classification head one branch."""
    if not backbone.out_strides:
        readers = [name for name in _DENSE_HEADS if getattr(model, name, None) is not None]
        if readers:
            trunk = backbone.trunk
            remedy = "set model.backbone.out_type='featmap'"
            if 'featmap' not in trunk.out_types:
                remedy = f'{trunk.out_type_note}; take another trunk'
            raise UserError(
                f'model.backbone.out_type {backbone.out_type!r} gives no maps, which '
                f'{_key(readers[0])} reads: {remedy}'
            )
        # By its name: mmpretrain may be absent.
        head = type(getattr(model, 'head', None)).__name__
        is_split = backbone.tuner.num_branches > 1 and backbone.out_type != 'raw'
        if is_split and head == 'LinearClsHead':
            raise UserError(
                f'model.head.type {head} reads one vector per image, but '
                f'{backbone.tuner.kind} gives {backbone.tuner.num_branches} (image and '
                "prompt): set model.head.type='hstpeft.TwoBranchClsHead'"
            )


def _check_neck(key: str, neck: nn.Module, maps: Maps) -> Maps | None:
    """Check a neck; returns what it gives, or None if it does not say."""
    expected, given = getattr(neck, 'in_channels', None), getattr(neck, 'out_channels', None)
    if isinstance(neck, PooledNorm):
        expected = given = neck.norm.num_features
        _expect(f'{key}.in_channels', expected, maps.channels[-1], maps)
    elif isinstance(neck, SimpleFeaturePyramid):
        _check_pyramid(f'{key}.in_channels', neck, maps)
    elif isinstance(expected, int):
        _expect(f'{key}.in_channels', expected, maps.channels[-1], maps)
    # A neck with a list of both (YOLOv3's) reads the maps in an order of its own.
    elif isinstance(expected, Sequence) and not isinstance(given, Sequence):
        _check_levels(f'{key}.in_channels', neck, maps)
    if isinstance(neck, PooledNorm):
        return Maps((given,), f'the neck gives a vector of {given} channels')
    if given is None and isinstance(expected, int):
        return maps  # such a neck (BFP) keeps width and number
    if not isinstance(given, int):
        return None
    count = getattr(neck, 'num_outs', len(maps.channels))
    return Maps((given,) * count, f'the neck gives {count} maps of {given} channels')


def _check_pyramid(key: str, neck: SimpleFeaturePyramid, maps: Maps) -> None:
    """Check the one width that all maps of a simple pyramid must have."""
    if len(set(maps.channels)) > 1:
        raise UserError(
            f'{key} {neck.in_channels}: {type(neck).__name__} reads maps of one width, but '
            f"{maps.said}: set model.neck.type to the host's FPN with "
            f'in_channels={list(maps.channels)}'
        )
    _expect(key, neck.in_channels, maps.channels[0], maps)


def _check_levels(key: str, neck: nn.Module, maps: Maps) -> None:
    """Compare a width per map; those below an FPN's start level are not read."""
    expected, given = list(neck.in_channels), list(maps.channels)
    read = _levels_read(neck)
    if len(expected) != len(given) or expected[read] != given[read]:
        _mismatch(key, expected, given, maps)


def _levels_read(neck: nn.Module) -> slice:
    return slice(getattr(neck, 'start_level', 0), getattr(neck, 'backbone_end_level', None))


def _check_norms(key: str, neck: nn.Module, backbone: TunedBackbone) -> None:
    """Refuse a trainable norm on a map that the neck leaves unread: DDP waits for its gradient."""
    read = _levels_read(neck)
    indices, widths = list(backbone.out_indices), list(backbone.out_channels)
    unread = [i for i in indices if i not in indices[read] and str(i) in backbone.out_norms]
    if unread:
        raise UserError(
            f'model.backbone.out_norm True puts a trainable norm on the map of index {unread[0]}, '
            f'which {key} leaves unread: set model.backbone.out_indices={indices[read]}, '
            f'{key}.in_channels={widths[read]}, {key}.start_level=0 and {key}.end_level=-1'
        )


def _check_decode_head(key: str, head: nn.Module, maps: Maps) -> None:
    """Check a head of mmseg: it reads the maps at its ``in_index``."""
    expected, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
    if expected is None or index is None:
        return
    count = len(maps.channels)
    indices = [index] if isinstance(index, int) else list(index)
    beyond = [i for i in indices if not -count <= i < count]
    if beyond:
        raise UserError(
            f'{key}.in_index {index} reads map {beyond[0]}, but {maps.said}: set indices from 0 to '
            f'{count - 1}'
        )
    read = [maps.channels[i] for i in indices]
    if getattr(head, 'input_transform', None) == 'resize_concat':
        if sum(read) != expected:  # the head keeps the sum of its list
            _mismatch(f'{key}.in_channels', f'(in all {expected})', read, maps)
    elif isinstance(index, int):
        _expect(f'{key}.in_channels', expected, read[0], maps)
    elif list(expected) != read:
        _mismatch(f'{key}.in_channels', list(expected), read, maps)


def _check_dense_head(name: str, head: nn.Module | None, maps: Maps) -> None:
    """Check a head of mmdet that runs on every map."""
    expected, key = getattr(head, 'in_channels', None), f'{_key(name)}.in_channels'
    if isinstance(expected, int):
        wrong = [width for width in maps.channels if width != expected]
        if wrong:
            _expect(key, expected, wrong[0], maps)
    elif isinstance(expected, Sequence) and sorted(expected) != sorted(maps.channels):
        _mismatch(key, list(expected), list(maps.channels), maps)


def _check_roi_head(roi_head: nn.Module | None, maps: Maps) -> None:
    """Check the extractors of mmdet: they pool from the first maps, into their own width."""
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        found = getattr(roi_head, name, None)
        for extractor in found if isinstance(found, nn.ModuleList) else [found]:
            key = _key(f'roi_head.{name}')
            strides = getattr(extractor, 'featmap_strides', ())
            if len(strides) > len(maps.channels):
                raise UserError(
                    f'{key}.featmap_strides {list(strides)} reads {len(strides)} maps, but '
                    f'{maps.said}: give a stride per map'
                )
            expected = getattr(extractor, 'out_channels', None)
            if isinstance(expected, int):
                _expect(f'{key}.out_channels', expected, maps.channels[0], maps)


def _check_last(key: str, part: nn.Module | None, maps: Maps) -> None:
    """Check a head of mmpretrain: it reads the last output."""
    expected = getattr(part, 'in_channels', None)
    if isinstance(expected, int):
        _expect(key, expected, maps.channels[-1], maps)


def _expect(key: str, expected: int, given: int, maps: Maps) -> None:
    if expected != given:
        _mismatch(key, expected, given, maps)


def _mismatch(key: str, expected: Any, given: Any, maps: Maps) -> None:
    raise UserError(f'{key} {expected} does not match: {maps.said}; set {key}={given}')
