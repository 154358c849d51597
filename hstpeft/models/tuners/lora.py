"""Low-rank adaptation (https://arxiv.org/abs/2106.09685), by HF peft.

Shapes: I input width and O output width of a Linear, R rank.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hstpeft.errors import UserError, check_least, check_names, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS

LINEARS = ('qkv', 'proj', 'fc1', 'fc2')
"""Linears of a block, by their role."""


@MODELS.register_module()
class LoRATuner(Tuner):
    """A trainable product of two thin matrices beside frozen Linears.

    ``y = W x + b + alpha / R * B A dropout(x)``, with A (R, I) drawn and B (O, R) zero at first,
    so that training starts from the pre-trained function. timm's ``qkv`` is one Linear: queries,
    keys and values share their A, and all three are adapted.

    peft puts its layers into the trunk, so the delta calls them by their place in it
    (``trunk...attn.qkv.lora_A.default.weight``). Trainable values for a ViT-B/16 with the default
    options: 294,912.

    Args:
        positions: Linears of every block that are adapted: of ``qkv``, ``proj``, ``fc1``, ``fc2``.
        rank: R.
        alpha: The product is scaled by ``alpha / rank``.
        drop_rate: Dropout of the product's input, in training.
    """

    def __init__(
        self,
        positions: Sequence[str] = ('qkv',),
        rank: int = 8,
        alpha: float = 8.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, LINEARS)
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
        """Let peft wrap the Linears of the blocks that run.

        Raises:
            UserError: peft is not installed, or the trunk's blocks lack a Linear.
        """
        try:
            names = linear_names(trunk, self.positions)
        except UserError as error:
            raise UserError(f'tuner.positions {self.positions}: {error}') from None
        inject_lora(trunk.net, names, self.rank, self.alpha, self.drop_rate)

    def description(self) -> dict[str, Any]:
        """Return alpha: no tensor of a delta shows it, as they show rank and positions."""
        return {'alpha': self.alpha}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return what peft has put into the trunk."""
        layers = map(trunk.net.get_submodule, linear_names(trunk, self.positions))
        factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
        return [parameter for factor in factors for parameter in factor.parameters()]

    def merge(self, trunk: Trunk) -> Tuner:
        """Add each product to its weight, and take peft's layers out of the trunk again."""
        for index in range(trunk.num_layers):
            for position in self.positions:
                layer = trunk.layer(index, position)
                layer.merge()
                trunk.set_layer(index, position, layer.get_base_layer())
        del trunk.net.peft_config
        return FrozenTuner()


def linear_names(trunk: Trunk, positions: Sequence[str]) -> list[str]:
    """Return the full names in ``trunk.net`` of some Linears of every block that runs."""
    return [
        trunk.layer_path(index, position)
        for index in range(trunk.num_layers)
        for position in positions
    ]


def inject_lora(
    net: nn.Module, names: Sequence[str], rank: int, alpha: float, drop_rate: float
) -> None:
    """Wrap the named Linears of a net by peft's LoRA layers, in place.

    Raises:
        UserError: peft is not installed.
    """
    try:  # here, since importing peft takes seconds that no other tuner needs to spend
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise UserError(
            f"LoRATuner needs HF peft ({error}): pip install peft==0.21.2 'transformers>=4.53,<5'"
        ) from error
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=drop_rate, target_modules=list(names)
    )
    inject_adapter_in_model(config, net)
    # peft takes a name for the end of a name, and shortens long lists.
    wrapped = {name for name, module in net.named_modules() if isinstance(module, BaseTunerLayer)}
    assert wrapped == set(names), f'peft wrapped {wrapped ^ set(names)}'
