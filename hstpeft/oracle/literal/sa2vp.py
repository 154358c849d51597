"""SA2VP as its equations say it, by the official names of the weights.

Shapes: B batch, G x G or h x w grid, L = 1 + h * w tokens (ViT) or h * w (Swin), C width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule

VIT = 'vit_base.transformer.'


@dataclass(frozen=True)
class SA2VPOptions:
    """What the weights do not tell."""

    num_heads: int
    grid: tuple[int, int]
    accelerated: bool
    exchange_indices: Sequence[int] = (0, 4, 8)
    deep_prompt_indices: Sequence[int] = (4, 8)
    mixing_weight: float = 0.1
    drop_rate: float = 0.0  # dropout behind the embeddings, in all MLPs and after `to_out`


def literal_sa2vp(
    w: Mapping[str, Tensor],
    image: Tensor,
    o: SA2VPOptions,
    kept: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the logits of the image and of the prompt branch on a ViT, (B, classes) each.

    What the reference cases show on the way goes into ``kept``, by their names.
    """
    kept = {} if kept is None else kept
    position = w[f'{VIT}embeddings.position_embeddings']
    kernel = w[f'{VIT}embeddings.patch_embeddings.weight']
    x = F.conv2d(image, kernel, w[f'{VIT}embeddings.patch_embeddings.bias'], kernel.shape[-2:])
    cls = w[f'{VIT}embeddings.cls_token'].expand(len(image), -1, -1)
    x = torch.cat([cls, x.flatten(2).transpose(1, 2)], dim=1) + position
    p = linear(w, f'{VIT}embeddings.ppt_proj', w[f'{VIT}embeddings.ppt']) + position
    x, p = drop(x, o), drop(p.expand(len(image), -1, -1), o)
    depth = sum(key.endswith('.attn.query.weight') for key in w)
    for i in range(depth):
        if i in o.exchange_indices:
            f = cross_block(w, i, x, p, o)
            p = layer(w, i, p, o)
        else:
            f = cross_block(w, i, p, x, o)
            p = layer(w, i, p, o)
        kept[f'fusion{i}'] = f
        if i in o.deep_prompt_indices:
            j = o.deep_prompt_indices.index(i)
            encoder = f'{VIT}encoder.'
            deep = linear(w, f'{encoder}deep_proj.{j}', w[f'{encoder}deep_ppt'][j])
            deep = layer(w, i, deep.expand(len(image), -1, -1), o)
            p = p + w[f'{encoder}cross_conv'][j] * deep
        x = layer(w, i, x, o)
        if i in o.exchange_indices:
            p = p + o.mixing_weight * f
        else:
            x = x + o.mixing_weight * f
    x, p = (layer_norm(w, f'{VIT}encoder.encoder_norm', t, 1e-6)[:, 0] for t in (x, p))
    kept['base_feature'], kept['prompt_feature'] = x, p
    return linear(w, 'class_head', x), linear(w, 'class_head', p)


def layer(w, i, x, o):
    """Run one frozen ViT layer."""
    name = f'{VIT}encoder.layer.{i}'
    normed = layer_norm(w, f'{name}.attention_norm', x, 1e-6)
    qkv = (linear(w, f'{name}.attn.{part}', normed) for part in ('query', 'key', 'value'))
    x = x + linear(w, f'{name}.attn.out', attend(*qkv, o.num_heads))
    return x + ffn(w, name, x, o)


def cross_block(w, i, source, reader, o):
    """Let the reader read the source's neighbourhoods; (B, L, C)."""
    name = f'{VIT}encoder.cross_attn.{i}'
    kv, q = (layer_norm(w, f'{name}.attention_norm', t, 1e-6) for t in (source, reader))
    q = linear(w, f'{name}.attn.to_q', q)
    k, v = (linear(w, f'{name}.attn.to_{part}', kv) for part in ('k', 'v'))
    heads = 1 if o.accelerated else o.num_heads
    first = attend(q[:, :1], k, v, heads)
    rest = neighbours(q[:, 1:], k[:, 1:], v[:, 1:], o.grid, heads, o.accelerated)
    z = linear(w, f'{name}.attn.to_out', torch.cat([first, rest], dim=1))
    return ffn(w, name, drop(z, o) + reader, o)


def ffn(w, name, z, o=None):
    """Run norm and MLP of a layer or a cross block."""
    hidden = F.gelu(linear(w, f'{name}.ffn.fc1', layer_norm(w, f'{name}.ffn_norm', z, 1e-6)))
    return drop(linear(w, f'{name}.ffn.fc2', drop(hidden, o)), o)


def drop(x, o):
    return F.dropout(x, o.drop_rate) if o and o.drop_rate else x


def neighbours(q, k, v, grid, heads, pad):
    """Attend to the 3 x 3 cells around each place, by gathering nine copies of keys and values.

    Cells beyond the border are zeros that take part (``pad``), or are left out.
    """
    k, v = (nine(t, grid) for t in (k, v))  # B h*w 9 C
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
    scores = torch.einsum('bnhd,bnkhd->bnhk', q, k) * q.shape[-1] ** -0.5
    if not pad:
        inside = nine(torch.ones(1, grid[0] * grid[1], 1, dtype=q.dtype), grid)
        outside = inside[:, :, None, :, 0] == 0
        scores = scores.masked_fill(outside.to(scores.device), -torch.inf)
    return torch.einsum('bnhk,bnkhd->bnhd', scores.softmax(dim=-1), v).flatten(2)


def nine(x, grid):
    """Gather the zero-padded 3 x 3 cells around each place of x (B, h*w, C): (B, h*w, 9, C)."""
    cells = F.pad(x.unflatten(1, grid), (0, 0, 1, 1, 1, 1))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    copies = [cells[:, i : i + grid[0], j : j + grid[1]].flatten(1, 2) for i, j in shifts]
    return torch.stack(copies, dim=2)


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    new = ('.ppt', '.ppt_proj.', '.cross_conv', '.deep_ppt', '.deep_proj.', 'class_head.')
    cross = '.cross_attn.' in name and ('.ffn.' in name or '.ffn_norm.' in name)
    swin = '.patch_embed.proj_ppt.' in name
    return cross or swin or any(part in f'.{name}' for part in new)


def sa2vp_vit_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    inner: int,
    num_deep: int,
    num_classes: int,
    mlp_size: int,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an official checkpoint."""
    length, encoder = 1 + grid[0] * grid[1], f'{VIT}encoder.'
    shapes: dict[str, tuple[int, ...]] = {
        f'{VIT}embeddings.position_embeddings': (1, length, width),
        f'{VIT}embeddings.cls_token': (1, 1, width),
        f'{VIT}embeddings.ppt': (1, length, inner),
    }
    if num_deep:
        shapes[f'{encoder}deep_ppt'] = (num_deep, 1, length, inner)
        shapes[f'{encoder}cross_conv'] = (num_deep, width)
    modules: dict[str, tuple[int, ...]] = {
        f'{VIT}embeddings.patch_embeddings': (width, 3, patch, patch),
        f'{VIT}embeddings.ppt_proj': (width, inner),
    }
    modules |= {f'{encoder}deep_proj.{number}': (width, inner) for number in range(num_deep)}
    for i in range(depth):
        for name, parts, hidden in (
            (f'{encoder}layer.{i}', ('query', 'key', 'value', 'out'), mlp_size),
            (f'{encoder}cross_attn.{i}', ('to_q', 'to_k', 'to_v', 'to_out'), inner),
        ):
            modules |= {f'{name}.attn.{part}': (width, width) for part in parts}
            modules |= {f'{name}.attention_norm': (width,), f'{name}.ffn_norm': (width,)}
            modules |= {f'{name}.ffn.fc1': (hidden, width), f'{name}.ffn.fc2': (width, hidden)}
    modules |= {f'{encoder}encoder_norm': (width,), 'class_head': (num_classes, width)}
    for name, shape in modules.items():
        shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
    return shapes


class LiteralSA2VP(OfficialModule):
    """`literal_sa2vp` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: SA2VPOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options

    def forward(
        self, image: Tensor, kept: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return literal_sa2vp(self.weights(), image, self.options, kept)
