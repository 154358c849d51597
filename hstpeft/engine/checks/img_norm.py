"""Are images normalised as the trunk's weights expect it? Other values train silently worse."""

import logging
from collections.abc import Iterable

from mmengine.logging import print_log
from torch import nn

from hstpeft.delta import RANDOM
from hstpeft.models.backbones import TunedBackbone

# Of 0..255: recipes round their numbers, and no two kinds of weights are that near.
_TOLERANCE = 0.5


def check_img_norm(model: nn.Module) -> None:
    """Warn in the log if ``data_preprocessor`` has other means or deviations than the trunk.

    No error: a recipe may mean it (the official ARC does), and of a file of weights only the usual
    values of its arch are known. Nothing is said about a trunk without pre-trained weights.

    Args:
        model: A host's model; any other backbone than a `TunedBackbone` is left alone.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TunedBackbone) or backbone.trunk.identity == RANDOM:
        return
    preprocessor, trunk = getattr(model, 'data_preprocessor', None), backbone.trunk
    expected = [[255 * value for value in values] for values in (trunk.mean, trunk.std)]
    # A host that shall not normalise has no such attributes.
    buffers = [getattr(preprocessor, name, None) for name in ('mean', 'std')]
    given = [[] if buffer is None else buffer.flatten().tolist() for buffer in buffers]
    if all(map(_agree, given, expected)):
        return
    said = f'has {_written(given)}' if all(given) else 'has no mean and std'
    print_log(
        f'model.data_preprocessor {said}, but the weights of such a trunk usually expect '
        f'{_written(expected)} (of 0..255): set these, unless the recipe or the weights mean '
        'something else',
        logger='current',
        level=logging.WARNING,
    )


def _agree(given: list[float], expected: list[float]) -> bool:
    """Whether values by channel are the same; a single one stands for all channels."""
    given = given * len(expected) if len(given) == 1 else given
    return len(given) == len(expected) and all(
        abs(a - b) < _TOLERANCE for a, b in zip(given, expected, strict=True)
    )


def _written(mean_std: Iterable[list[float]]) -> str:
    values = [', '.join(f'{value:.6g}' for value in part) for part in mean_std]
    return 'mean=[{}] and std=[{}]'.format(*values)
