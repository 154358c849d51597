"""A trunk as a file of timm's, which runs without hstpeft.

Shapes: B batch, H W pixels.
"""

import os
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.models.trunks.base import Trunk
from hstpeft.models.trunks.places import Places


def timm_arguments(trunk: Trunk) -> dict[str, Any]:
    """Return what ``timm.create_model`` needs for a file of `Trunk.timm_tensors`.

    Returns:
        ``model_name``, ``num_classes`` and options; ``checkpoint_path`` is left to the caller.

    Raises:
        UserError: timm has no such model.
    """
    if not trunk.arch or trunk.form:
        raise UserError(f'timm has no model like this {type(trunk).__name__}{trunk.form}')
    options = {**trunk.arch_options, **trunk.timm_options()}
    return {'model_name': trunk.arch, 'num_classes': 0, **options}


def write_call(arguments: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Write the call that loads a file, as Python."""
    name, *rest = [*arguments.items()]
    shown = [repr(name[1]), *(f'{key}={value!r}' for key, value in rest)]
    return f'timm.create_model({", ".join(shown)}, checkpoint_path={str(path)!r})'


@torch.no_grad()
def feature_change(
    trunk: Trunk, arguments: Mapping[str, Any], path: str | os.PathLike, image: Tensor
) -> float:
    """Compare the features of a trunk with those of timm's model of a file.

    Args:
        trunk: Plain, with no tuner in it.
        arguments: From `timm_arguments`.
        path: The file.
        image: (B, 3, H, W) of the size that the trunk was built for.

    Returns:
        The largest difference of the normed tokens of the last block.
    """
    net = timm.create_model(**arguments, checkpoint_path=str(path)).eval().to(image)
    tokens, grid = trunk.embed(image)
    last = len(trunk.output_dims) - 1
    own = trunk.final_norm(trunk.run(tokens, Places(), (last,), grid)[last])
    return float((own - net.forward_features(image)).abs().max())
