"""Training chosen parts of the trunk itself: BitFit (https://arxiv.org/abs/2106.10199) and the like."""

from collections.abc import Sequence

import torch
from torch import nn

from hstpeft.errors import UserError, check_names
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS

PARTS = ('biases', 'norms')


@MODELS.register_module()
class SelectiveTuner(Tuner):
    """Trains parts of the trunk and adds nothing, so that a trained trunk is the merged model.

    ``biases`` alone is BitFit: 102,912 values of a ViT-B/16.

    Args:
        parts: ``biases`` of Linears, norms and convolutions, ``norms`` with weight and bias.

    Raises:
        UserError: A wrong option; a trunk that is to be held in another dtype than float32.
    """

    def __init__(self, parts: Sequence[str] = ('biases',)) -> None:
        super().__init__()
        self.parts = check_names('tuner.parts', parts, PARTS)

    def attach(self, trunk: Trunk) -> None:
        """Build nothing; refuse layers whose weight and bias would be of two dtypes."""
        if trunk.frozen_dtype != torch.float32:
            dtype = str(trunk.frozen_dtype).removeprefix('torch.')
            raise UserError(
                f'trunk.dtype {dtype!r} is for layers that are frozen whole, and SelectiveTuner '
                "trains parts of them in float32: use 'float32' (tools/train.py --amp or --bf16 "
                'computes in half precision)'
            )

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the chosen parameters of what runs.

        Raises:
            UserError: The trunk has none.
        """
        chosen = []
        for module in trunk.modules():
            own = dict(module.named_parameters(recurse=False))
            is_norm = isinstance(own.get('weight'), nn.Parameter) and own['weight'].dim() == 1
            if is_norm and 'norms' in self.parts:
                chosen += own.values()
            elif own.get('bias') is not None and 'biases' in self.parts:
                chosen.append(own['bias'])
        running = {id(parameter) for parameter in trunk.running_parameters()}
        chosen = [parameter for parameter in chosen if id(parameter) in running]
        if not chosen:
            raise UserError(f'tuner.parts {self.parts}: this trunk has none of them')
        return chosen

    def merge(self, trunk: Trunk) -> Tuner:
        """The trained trunk is the merged model already."""
        return FrozenTuner()
