"""Adapter+ (https://arxiv.org/abs/2406.06820), and the adapters of Houlsby and Pfeiffer.

Houlsby: https://arxiv.org/abs/1902.00751, Pfeiffer: https://arxiv.org/abs/2005.00247.
Shapes: L tokens, C width of a block, R adapter width.
"""

from typing import Any

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import check_choice, check_least, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.parameters import norm_parameters
from hstpeft.models.tuners.base import Tuner, check_float32
from hstpeft.models.tuners.bottleneck import Bottleneck
from hstpeft.registry import MODELS

FORMS = {
    'post': ('after_block',),
    'pfeiffer': ('after_block',),
    'intermediate': ('after_mlp',),
    'parallel': ('beside_mlp',),
    'pre': ('before_mlp_norm',),
    'houlsby': ('after_attention', 'after_mlp'),
}
"""By form, the places at which adapters act."""
INITS = ('houlsby', 'bert', 'lora')


@MODELS.register_module()
class AdapterPlusTuner(Tuner):
    """A bottleneck per block, at the place that a form names; Houlsby's form has two.

    ``A(t) = scale * up(GELU(down(t)))``. With x the stream at the entry of a block, a and m what
    attention and MLP add to it (layer scale and drop path included) and y = x + a, the block gives

    * ``post`` and ``pfeiffer``: ``y + m + A(y + m)``, the same function by the names of two papers;
    * ``intermediate``: ``y + m + A(m)``;
    * ``parallel``: ``y + m + A(y)``;
    * ``pre``: ``z + m(z)`` for ``z = y + A(y)``;
    * ``houlsby``: ``z + m(z) + A(m(z))`` for ``z = y + B(a)``, B being an adapter of its own.

    In an HVT ``post`` reads what leaves the block, pooled if the block pools.

    Trainable values: 2 C R + R + 2 C per block by default; 165,984 for a ViT-B/16. Without learned
    scale C fewer, with one number per adapter C - 1 fewer; without biases R + C fewer; with a norm
    2 C more; twice as many for ``houlsby``; and those of the trunk's norms with ``train_norms``.

    Args:
        form: One of the above; Adapter+ is ``post``.
        adapter_dims: R.
        scale: Factor of the adapter's output, ``'learned'``, one number per adapter, or
            ``'channel'``, one per channel; learned ones are 1 at first.
        adapter_norm: ``in`` puts a LayerNorm (eps 1e-6) on the adapter's input; or ``none``.
        bias: Whether the Linears of an adapter have biases.
        activation: Whether there is the GELU.
        init: ``houlsby``: weights from a normal distribution of deviation 0.01, cut off at two of
            them, so that training starts near the pre-trained function; ``bert``: deviation 0.02,
            not cut off; both with biases of 0. ``lora``: as torch's Linear, but 0 for ``up``, so
            that training starts exactly from the pre-trained function.
        train_norms: Whether all norms of the trunk are trained as well, the last one too.
        drop_rate: Dropout inside an adapter.
        drop_path_rate: How often an adapter is left out for an image of a batch, at every depth.

    Raises:
        UserError: A wrong option; trained norms in a trunk that is held in another dtype.
    """

    def __init__(
        self,
        form: str = 'post',
        adapter_dims: int = 8,
        scale: float | str = 'channel',
        adapter_norm: str = 'none',
        bias: bool = True,
        activation: bool = True,
        init: str = 'houlsby',
        train_norms: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice('tuner.form', form, tuple(FORMS))
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_choice('tuner.adapter_norm', adapter_norm, ('none', 'in'))
        check_choice('tuner.init', init, INITS)
        check_rate('tuner.drop_rate', drop_rate)
        check_rate('tuner.drop_path_rate', drop_path_rate)
        if isinstance(scale, str):
            check_choice('tuner.scale', scale, ('learned', 'channel'))
        self.form, self.scale, self.activation = form, scale, activation
        self.train_norms = train_norms
        self.options: dict[str, Any] = dict(
            inner=adapter_dims, scale=scale, norm=adapter_norm, bias=bias, activation=activation,
            init=init, drop_rate=drop_rate, drop_path_rate=drop_path_rate,
        )  # fmt: skip

    def attach(self, trunk: Trunk) -> None:
        """Build an adapter for every block, for Houlsby's form another one behind the attention."""
        if self.train_norms:
            check_float32('tuner.train_norms True', trunk, 'norms are trained in float32')
        attention = trunk.block_dims if self.form == 'houlsby' else ()
        self.attn_adapters = nn.ModuleList(PlusAdapter(dims, **self.options) for dims in attention)
        self.adapters = nn.ModuleList(
            PlusAdapter(dims, **self.options) for dims in trunk.block_dims
        )

    def description(self) -> dict[str, Any]:
        """Return form, scale and whether there is an activation."""
        form = 'post' if self.form == 'pfeiffer' else self.form
        return {'form': form, 'scale': self.scale, 'activation': self.activation}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return those of the norms that run, with `train_norms`."""
        if not self.train_norms:
            return []
        running = {id(parameter) for parameter in trunk.running_parameters()}
        return [p for p in norm_parameters(trunk) if id(p) in running]

    @property
    def acting_places(self) -> frozenset[str]:
        """Where the form has adapters."""
        return frozenset(FORMS[self.form])

    def after_attention(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Act in Houlsby's form."""
        return branch + self.attn_adapters[index](branch) if self.attn_adapters else branch

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Act in the form ``pre``."""
        return self._adapt(index, tokens, 'pre')

    def beside_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Act in the form ``parallel``."""
        return self._adapt(index, tokens, 'parallel')

    def after_mlp(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Act in the forms ``intermediate`` and ``houlsby``."""
        return self._adapt(index, branch, 'intermediate', 'houlsby')

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Act in the forms ``post`` and ``pfeiffer``."""
        return self._adapt(index, tokens, 'post', 'pfeiffer')

    def _adapt(self, index: int, tokens: Tensor, *forms: str) -> Tensor:
        """Add an adapter's output to what it reads, if the form is one of those that act here."""
        return tokens + self.adapters[index](tokens) if self.form in forms else tokens


class PlusAdapter(Bottleneck):
    """Adapter+'s bottleneck: a GELU or nothing, perhaps a norm, and drop path.

    Args:
        dims: C.
        inner: R.
        scale: See `Bottleneck`.
        norm: ``in`` or ``none``.
        bias: Whether the Linears have one.
        activation: Whether there is the GELU.
        init: One of `INITS`.
        drop_rate: See `Bottleneck`.
        drop_path_rate: How often the output is 0 for an image.
    """

    def __init__(
        self, dims: int, inner: int, scale: float | str, norm: str, bias: bool, activation: bool,
        init: str, drop_rate: float, drop_path_rate: float,
    ) -> None:  # fmt: skip
        act = F.gelu if activation else nn.Identity()
        super().__init__(dims, inner, act, scale, drop_rate, bias)
        if norm == 'in':
            self.norm_in = nn.LayerNorm(dims, eps=1e-6)
        self.drop_path = DropPath(drop_path_rate)
        self.draw(init)

    def draw(self, init: str) -> None:
        """Give the Linears their first values."""
        for linear in (self.down, self.up):
            if init == 'houlsby':
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            elif init == 'bert':
                nn.init.normal_(linear.weight, std=0.02)
            elif linear is self.up:
                nn.init.zeros_(linear.weight)
            # torch's own bias of `down` is what LoRA's form of initialisation keeps.
            if linear.bias is not None and (init != 'lora' or linear is self.up):
                nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, ..., C) to the same shape and dtype."""
        return self.drop_path(super().forward(tokens))
