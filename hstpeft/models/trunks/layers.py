"""Standing on the output of a named Linear or norm of a trunk.

A trunk names its layers by their role (``qkv``, ``fc1``, ``norm1`` ...), whatever the module that
holds them calls them: the tables here have timm's names, another family brings its own. What a
tuner puts on one becomes part of the trunk's module tree, as HF peft's layers do: the parameters are
the tuner's, and a delta names them by their place.
"""

from torch import Tensor, nn

BLOCK_LAYERS = {
    'norm1': 'norm1',
    'qkv': 'attn.qkv',
    'q_norm': 'attn.q_norm',
    'k_norm': 'attn.k_norm',
    'attn_norm': 'attn.norm',
    'proj': 'attn.proj',
    'norm2': 'norm2',
    'fc1': 'mlp.fc1',
    'fc1_g': 'mlp.fc1_g',
    'fc1_x': 'mlp.fc1_x',
    'mlp_norm': 'mlp.norm',
    'fc2': 'mlp.fc2',
}
"""By role, the place of a layer inside a block of timm's, in the order in which they run."""
OUTER_LAYERS = {
    'patch': 'patch_embed.proj',
    'patch_norm': 'patch_embed.norm',
    'pre_norm': 'norm_pre',
    'final_norm': 'norm',
    'pool_norm': 'fc_norm',
}
"""By role, the place of a layer before or behind the blocks."""


class AdaptedLayer(nn.Module):
    """A layer of the trunk, and what a tuner makes of its output.

    Args:
        layer: The trunk's.
        adapter: The tuner's: output of the layer in, the same shape out.
    """

    def __init__(self, layer: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.adapter = layer, adapter

    @property
    def weight(self) -> Tensor:
        """Weight of the layer, for code that asks for its dtype or shape."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer, then the adapter."""
        return self.adapter(self.base_layer(x))


def has_parameters(module: nn.Module | None) -> bool:
    """Whether a place holds a layer with parameters: timm fills empty ones with an Identity."""
    return module is not None and next(module.parameters(), None) is not None
