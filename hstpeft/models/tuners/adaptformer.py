"""AdaptFormer (https://arxiv.org/abs/2205.13535).

Shapes: B batch, L tokens, C width of a block, R adapter width, T prompt tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import check_choice, check_least, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner, check_needs
from hstpeft.models.tuners.bottleneck import Bottleneck
from hstpeft.registry import MODELS


@MODELS.register_module()
class AdaptFormerTuner(Tuner):
    """A bottleneck beside the MLP of every block, or behind it.

    ``A(x) = scale * up(dropout(ReLU(down(x))))``, ``up`` being zero at first. ``parallel``: the
    stream that passes by the MLP becomes ``x + A(x)``, not normalised. ``sequential``: the MLP's
    output m becomes ``m + A(m)``. A norm that the trunk has behind its pooling is trained as well.

    Trainable values: 2 C R + R + C per block; 1,189,632 for a ViT-B/16 with the default options.

    Args:
        form: ``parallel`` or ``sequential``.
        adapter_dims: R.
        scale: Factor of the adapter's output, or ``'learned'``: one number per block, 1 at first.
        adapter_norm: LayerNorm on its input (``in``), on its scaled output (``out``), or ``none``.
        drop_rate: Dropout inside the adapter.
        num_prompt_tokens: T of each block, in front of its sequence and cut off at its exit.
    """

    def __init__(
        self,
        form: str = 'parallel',
        adapter_dims: int = 64,
        scale: float | str = 0.1,
        adapter_norm: str = 'none',
        drop_rate: float = 0.1,
        num_prompt_tokens: int = 0,
    ) -> None:
        super().__init__()
        check_choice('tuner.form', form, ('parallel', 'sequential'))
        check_choice('tuner.adapter_norm', adapter_norm, ('none', 'in', 'out'))
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_least('tuner.num_prompt_tokens', num_prompt_tokens, 0)
        check_rate('tuner.drop_rate', drop_rate)
        if isinstance(scale, str):
            check_choice('tuner.scale', scale, ('learned',))
        self.form, self.scale, self.adapter_norm = form, scale, adapter_norm
        self.options = (adapter_dims, scale, adapter_norm, drop_rate)
        self.num_front_tokens = num_prompt_tokens

    def attach(self, trunk: Trunk) -> None:
        """Build an adapter and prompt tokens for every block."""
        self.adapters = nn.ModuleList(Adapter(dims, *self.options) for dims in trunk.block_dims)
        self.prompts = nn.ParameterList()
        if self.num_front_tokens:
            check_needs(self, trunk, ('token_sequence',))
            shapes = [(1, self.num_front_tokens, dims) for dims in trunk.block_dims]
            self.prompts.extend(nn.init.xavier_uniform_(torch.empty(shape)) for shape in shapes)

    @property
    def acting_places(self) -> frozenset[str]:
        """The MLP's, and the ends of the block if it has prompt tokens."""
        adapters = {'beside_mlp' if self.form == 'parallel' else 'after_mlp'}
        return frozenset(
            adapters | ({'before_block', 'after_block'} if self.num_front_tokens else set())
        )

    def description(self) -> dict[str, Any]:
        """Return form, scale and what is normalised."""
        return {'form': self.form, 'scale': self.scale, 'adapter_norm': self.adapter_norm}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the norm behind the pooling, if there is one that runs."""
        norms = [name for name in trunk.layer_names(None) if name == 'pool_norm']
        return [p for name in norms for p in trunk.layer(None, name).parameters()]

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the prompt tokens."""
        return list(self.prompts)

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Put this block's prompt tokens in front."""
        own = [p.to(tokens.dtype).expand(len(tokens), -1, -1) for p in self.prompts[index:][:1]]
        return torch.cat([*own, tokens], dim=1) if own else tokens

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Cut this block's prompt tokens off."""
        return tokens[:, self.num_front_tokens :] if self.num_front_tokens else tokens

    def beside_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Add the parallel adapter's output to the stream."""
        return tokens + self.adapters[index](tokens) if self.form == 'parallel' else tokens

    def after_mlp(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Add the sequential adapter's output to the MLP's."""
        return branch + self.adapters[index](branch) if self.form == 'sequential' else branch


class Adapter(Bottleneck):
    """AdaptFormer's bottleneck: a ReLU, nothing at first, and perhaps a norm."""

    def __init__(self, dims: int, inner: int, scale: float | str, norm: str, rate: float) -> None:
        super().__init__(dims, inner, F.relu, scale, rate)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)
        self.norm_in, self.norm_out = (
            nn.LayerNorm(dims) if norm == place else nn.Identity() for place in ('in', 'out')
        )
