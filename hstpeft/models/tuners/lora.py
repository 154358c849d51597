"""Low-rank adaptation (https://arxiv.org/abs/2106.09685), by HF peft.

Shapes: I input width and O output width of a Linear, R rank.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hstpeft.errors import UserError, check_least, check_names, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import AdaptedLayer
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.models.tuners.fused_lora import THIRDS, FusedLoRA
from hstpeft.models.tuners.peft_layers import inject
from hstpeft.models.tuners.peft_types import import_peft
from hstpeft.registry import MODELS

LINEARS = ('qkv', 'proj', 'fc1', 'fc2')
"""Linears of a plain block, by their role."""
POSITIONS = (*LINEARS, *THIRDS, 'fc1_g', 'fc1_x')


@MODELS.register_module()
class LoRATuner(Tuner):
    """A trainable product of two thin matrices beside frozen Linears.

    ``y = W x + b + alpha / R * B A dropout(x)``, with A (R, I) drawn and B (O, R) zero at first,
    so that training starts from the pre-trained function. timm's ``qkv`` is one Linear: queries,
    keys and values share their A, and all three are adapted. ``q``, ``k`` and ``v`` name them one
    by one, each with an A of its own: the paper adapts ``('q', 'v')``. They are Linears of some
    trunks, and thirds of the rows of ``qkv`` in the others.

    peft puts its layers into the trunk, so the delta calls them by their place in it
    (``trunk...attn.qkv.lora_A.default.weight``; a third ``trunk...attn.qkv.adapter.q.lora_A``).
    Trainable values: the sum of R (I + O) over the Linears; 294,912 for a ViT-B/16 with the default
    options, as for its queries and values alone.

    Args:
        positions: Linears of every block that are adapted: of ``qkv``, or ``q``, ``k``, ``v``;
            ``proj``, ``fc1``, ``fc2``, and in blocks with SwiGLU ``fc1_g`` and ``fc1_x``.
        rank: R.
        alpha: The product is scaled by ``alpha / rank``.
        drop_rate: Dropout of the product's input, in training.

    Raises:
        UserError: A wrong option.
    """

    def __init__(
        self,
        positions: Sequence[str] = ('qkv',),
        rank: int = 8,
        alpha: float = 8.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, POSITIONS)
        if 'qkv' in self.positions and set(THIRDS) & set(self.positions):
            raise UserError(
                f'tuner.positions {self.positions} name queries, keys or values twice: leave qkv '
                'or the others out'
            )
        check_least('tuner.rank', rank, 1)
        check_rate('tuner.drop_rate', drop_rate)
        if alpha <= 0:
            raise UserError(f'tuner.alpha {alpha} must be above 0')
        self.rank, self.alpha, self.drop_rate = rank, alpha, drop_rate

    @property
    def kind(self) -> str:
        """Name alpha too: no tensor of a delta shows it, as they show rank and positions."""
        return f'{type(self).__name__} (alpha={self.alpha:g})'

    def attach(self, trunk: Trunk) -> None:
        """Let peft wrap the Linears of the blocks that run, and adapt thirds of a fused qkv.

        Raises:
            UserError: peft is not installed, or the trunk's blocks lack a Linear.
        """
        whole, thirds = self._divide(trunk)
        try:
            names = linear_names(trunk, whole)
        except UserError as error:
            raise UserError(f'tuner.positions {self.positions}: {error}') from None
        if names:
            peft = import_peft(type(self).__name__)
            config = peft.LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.drop_rate,
                target_modules=names,
            )
            inject(trunk.net, names, config, type(self).__name__)
        for index in range(trunk.num_layers if thirds else 0):
            layer = trunk.layer(index, 'qkv')
            adapter = FusedLoRA(layer, thirds, self.rank, self.alpha, self.drop_rate)
            trunk.set_layer(index, 'qkv', AdaptedLayer(layer, adapter))

    def description(self) -> dict[str, Any]:
        """Return alpha: no tensor of a delta shows it, as they show rank and positions."""
        return {'alpha': self.alpha}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return what peft has put into the trunk, and the products of the thirds."""
        whole, thirds = self._divide(trunk)
        layers = map(trunk.net.get_submodule, linear_names(trunk, whole))
        added = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
        if thirds:
            added += [trunk.layer(index, 'qkv').adapter for index in range(trunk.num_layers)]
        return [parameter for module in added for parameter in module.parameters()]

    def merge(self, trunk: Trunk) -> Tuner:
        """Add each product to its weight, and take what stands on the Linears out of the trunk."""
        whole, thirds = self._divide(trunk)
        for index in range(trunk.num_layers):
            for position in whole:
                layer = trunk.layer(index, position)
                layer.merge()
                trunk.set_layer(index, position, layer.get_base_layer())
            if thirds:
                adapted = trunk.layer(index, 'qkv')
                adapted.adapter.add_to(adapted.base_layer.weight)
                trunk.set_layer(index, 'qkv', adapted.base_layer)
        return FrozenTuner()

    def _divide(self, trunk: Trunk) -> tuple[list[str], list[str]]:
        """Tell the positions that are Linears of the trunk from the thirds of its fused qkv."""
        fused = 'qkv' in trunk.layer_names(0)
        thirds = [name for name in THIRDS if fused and name in self.positions]
        return [name for name in self.positions if name not in thirds], thirds


def linear_names(trunk: Trunk, positions: Sequence[str]) -> list[str]:
    """Return the full names in ``trunk.net`` of some Linears of every block that runs."""
    return [
        trunk.layer_path(index, position)
        for index in range(trunk.num_layers)
        for position in positions
    ]
