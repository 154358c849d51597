"""Adapter+ and its kin as their equations say it, by the official names of the weights.

Shapes: B batch, L = 1 + patches, C width, R adapter width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.vit import embed, vit_shapes


@dataclass(frozen=True)
class AdapterPlusOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of the blocks.
        form: ``post``, ``pfeiffer``, ``intermediate``, ``parallel``, ``pre`` or ``houlsby``.
        scale: Factor of the adapters' outputs, where it is not learned.
        activation: Whether there is a GELU.
        train_norms: Whether the norms of the trunk are trained.
    """

    num_heads: int
    form: str = 'post'
    scale: float = 1.0
    activation: bool = True
    train_norms: bool = False


def literal_adapter_plus(
    w: Mapping[str, Tensor], image: Tensor, options: AdapterPlusOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    x, _ = embed(w, image)
    outputs = []
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        outputs.append(x := block(w, f'blocks.{i}.', x, options))
    outputs.append(layer_norm(w, 'norm', x, 1e-6))
    return outputs, linear(w, 'head', outputs[-1][:, 0])


def block(w, name, x, options):
    """Run one block, in each form as its equations are written."""

    def adapter(t, which='adapter'):
        return adapt(w, f'{name}{which}.', t, options)

    a = attention(w, name, x, options.num_heads)
    if options.form == 'houlsby':
        y = x + a + adapter(a, 'adapter_attn')
        m = mlp(w, name, y)
        return y + m + adapter(m)
    y = x + a
    if options.form == 'pre':
        y = y + adapter(y)
        return y + mlp(w, name, y)
    m = mlp(w, name, y)
    read = {'post': y + m, 'pfeiffer': y + m, 'intermediate': m, 'parallel': y}
    return y + m + adapter(read[options.form])


def adapt(w, name, t, options):
    """Compute ``scaling * up(GELU(down(norm_a(t))))``."""
    if f'{name}norm_a.weight' in w:
        t = layer_norm(w, f'{name}norm_a', t, 1e-6)
    t = linear(w, f'{name}bottleneck.1', t)
    t = linear(w, f'{name}bottleneck.4', F.gelu(t) if options.activation else t)
    return w.get(f'{name}scaling', options.scale) * t


def attention(w, name, x, heads):
    qkv = linear(w, f'{name}attn.qkv', layer_norm(w, f'{name}norm1', x, 1e-6))
    mixed = attend(*qkv.chunk(3, dim=-1), heads)
    return w.get(f'{name}ls1.gamma', 1) * linear(w, f'{name}attn.proj', mixed)


def mlp(w, name, x):
    x = F.gelu(linear(w, f'{name}mlp.fc1', layer_norm(w, f'{name}norm2', x, 1e-6)))
    return w.get(f'{name}ls2.gamma', 1) * linear(w, f'{name}mlp.fc2', x)


def adapter_plus_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int,
    adapter_dims: int, mlp_ratio: float = 4.0, qkv_bias: bool = True, attn_adapter: bool = False,
    scaling: float | str = 1.0, norm: bool = False, bias: bool = True, layer_scale: bool = False,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official model."""
    shapes = vit_shapes(width, depth, grid, patch, num_classes, int(width * mlp_ratio), qkv_bias)
    parts = {
        'bottleneck.1.weight': (adapter_dims, width),
        'bottleneck.4.weight': (width, adapter_dims),
    }
    if bias:
        parts |= {'bottleneck.1.bias': (adapter_dims,), 'bottleneck.4.bias': (width,)}
    if norm:
        parts |= {'norm_a.weight': (width,), 'norm_a.bias': (width,)}
    if isinstance(scaling, str):
        parts['scaling'] = {'learned': (1,), 'channel': (width,)}[scaling]
    for i in range(depth):
        for adapter in ('adapter', 'adapter_attn')[: 1 + attn_adapter]:
            shapes |= {f'blocks.{i}.{adapter}.{part}': shape for part, shape in parts.items()}
        if layer_scale:
            shapes |= {f'blocks.{i}.{name}.gamma': (width,) for name in ('ls1', 'ls2')}
    return shapes


def is_trainable(name: str, train_norms: bool) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    *_, module, _ = ('', *name.split('.'))
    is_norm = module in ('norm', 'norm1', 'norm2', 'norm_a')
    return '.adapter' in name or name.startswith('head.') or (train_norms and is_norm)


class LiteralAdapterPlus(OfficialModule):
    """`literal_adapter_plus` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: AdapterPlusOptions) -> None:
        super().__init__(official, lambda name: is_trainable(name, options.train_norms))
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_adapter_plus(self.weights(), image, self.options)
