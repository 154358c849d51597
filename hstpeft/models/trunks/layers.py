"""Standing on the output of a named Linear or norm of a trunk.

A trunk names its layers by their role (``qkv``, ``fc1``, ``norm1`` ...), whatever the module that
holds them calls them: the tables here have timm's names, another family brings its own. What a
tuner puts on one becomes part of the trunk's module tree, as HF peft's layers do: the parameters are
the tuner's, and a delta names them by their place.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks.parameters import has_parameters

BLOCK_LAYERS = {
    'norm1': 'norm1',
    'qkv': 'attn.qkv',
    'q': 'attn.q_proj',
    'k': 'attn.k_proj',
    'v': 'attn.v_proj',
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
BRANCHES = ('attention', 'mlp')
"""What a block adds to the residual stream, in the order in which they run."""
READERS = {'attention': ('qkv', 'q', 'k', 'v'), 'mlp': ('fc1', 'fc1_g', 'fc1_x')}
"""By branch, the roles of the Linears that read its normalised input, of which a block has some."""
OUTER_LAYERS = {
    'patch': 'patch_embed.proj',
    'patch_norm': 'patch_embed.norm',
    'pre_norm': 'norm_pre',
    'final_norm': 'norm',
    'pool_norm': 'fc_norm',
}
"""By role, the place of a layer before or behind the blocks."""
BEHIND_BLOCKS = ('final_norm', 'pool_norm')
"""Those of the outer layers that stand behind."""


class NamedLayers:
    """What a trunk knows of its layers by their roles; a `Trunk` inherits it.

    Attributes:
        block_layers: By role, the place of a layer inside a block; timm's unless a family has
            another.
        outer_layers: By role, the place of a layer before or behind the blocks.
        bias_options: By option of timm's, the roles of the Linears that get biases by it, in every
            block.
        given_biases: Those of these options that a merge has needed.
    """

    block_layers: Mapping[str, str] = BLOCK_LAYERS
    outer_layers: Mapping[str, str] = OUTER_LAYERS
    bias_options: Mapping[str, tuple[str, ...]] = {}
    given_biases: frozenset[str] = frozenset()

    def layer_names(self, index: int | None) -> list[str]:
        """List the roles of the layers with parameters of a block, or (None) outside the blocks."""
        idle = {id(module) for module in self.idle_modules()}
        found = {name: self._find(index, name) for name in self._layers(index)}
        return [n for n, layer in found.items() if has_parameters(layer) and id(layer) not in idle]

    def layer_path(self, index: int | None, name: str) -> str:
        """Return the name inside `net` of a layer.

        Args:
            index: Number of the block; None for a layer outside the blocks.
            name: Its role, e.g. ``qkv``.

        Raises:
            UserError: The trunk has no such layer.
        """
        if not has_parameters(self._find(index, name)):
            where = 'outside its blocks' if index is None else f'in block {index}'
            names = self.layer_names(index)
            raise UserError(
                f'this trunk has no {name} {where}, it has {names} there: {_instead(name, names)}'
            )
        return self._path(index, name)

    def layer(self, index: int | None, name: str) -> nn.Module:
        """Return a layer, see `layer_path`."""
        return self.net.get_submodule(self.layer_path(index, name))

    def set_layer(self, index: int | None, name: str, layer: nn.Module) -> None:
        """Put something in the place of a layer, see `layer_path`."""
        parent, _, child = self.layer_path(index, name).rpartition('.')
        setattr(self.net.get_submodule(parent), child, layer)

    def readers(self, index: int, branch: str) -> list[str]:
        """List the roles of the Linears that read the normalised input of a branch.

        Args:
            index: Number of the block.
            branch: ``attention`` or ``mlp``.
        """
        return [name for name in self.layer_names(index) if name in READERS[branch]]

    def give_bias(self, index: int | None, name: str) -> None:
        """Give a layer without bias one of zeros, which a merge fills.

        Raises:
            UserError: timm's model of this family has no bias there, under any option.
        """
        options = [key for key, roles in self.bias_options.items() if name in roles]
        if index is None or not options:
            raise UserError(
                f'the tuner cannot be merged: {name} of this trunk has no bias that could take a '
                'shift; deploy the delta beside the trunk (tools/delta.py export)'
            )
        layer = self.layer(index, name)
        layer.bias = nn.Parameter(_zero_bias(layer), requires_grad=False)
        self.given_biases = self.given_biases | {*options}

    def timm_tensors(self) -> dict[str, Tensor]:
        """Return the parameters by the names that timm's files have, sharing their memory.

        An option of timm's gives biases to every block: where a merge needed none they are zero.
        """
        tensors = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        roles = [role for option in self.given_biases for role in self.bias_options[option]]
        for index in range(self.num_blocks):
            for role in roles:
                layer = self._find(index, role)
                if has_parameters(layer):
                    tensors.setdefault(f'{self._path(index, role)}.bias', _zero_bias(layer))
        return tensors

    def timm_options(self) -> dict[str, Any]:
        """Return the options of ``timm.create_model`` that `timm_tensors` need.

        Beside the arch and what `arch_options` said; empty unless the trunk lacks a tensor of the
        arch, or a merge has given it one.
        """
        return dict.fromkeys(sorted(self.given_biases), True)

    def _layers(self, index: int | None) -> Mapping[str, str]:
        return self.outer_layers if index is None else self.block_layers

    def _path(self, index: int | None, name: str) -> str:
        path = self._layers(index)[name]
        return path if index is None else f'{self.block_path(index)}.{path}'

    def _find(self, index: int | None, name: str) -> nn.Module | None:
        if name not in self._layers(index):
            return None
        module = self.net
        for part in self._path(index, name).split('.'):
            module = getattr(module, part, None)
        return module


class AdaptedLayer(nn.Module):
    """A layer of the trunk, and what a tuner makes of its output.

    Args:
        layer: The trunk's.
        adapter: The tuner's: output and input of the layer in, the shape of the output out.
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
        return self.adapter(self.base_layer(x), x)


def _instead(name: str, names: list[str]) -> str:
    """Say what to do without a layer: some trunks have several Linears for one of others."""
    roles = next((roles for roles in READERS.values() if name in roles), ())
    same = [role for role in roles if role in names]
    return f'use {", ".join(same)} instead' if same else f'leave {name} out'


def _zero_bias(layer: nn.Module) -> Tensor:
    return torch.zeros_like(layer.weight[:, 0])
