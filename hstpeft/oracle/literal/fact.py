"""Factor-Tuning as its equations say it, by the official names of the weights.

Shapes: B batch, L = 1 + patches, C width, R rank, K pieces of width C of an MLP's hidden values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.vit import embed, vit_shapes

ATTENTION = ('q', 'k', 'v', 'proj')
MLP = ('fc1', 'fc2')


@dataclass(frozen=True)
class FacTOptions:
    """What the weights do not tell: heads, and the factor of the updates."""

    num_heads: int
    scale: float = 1.0


def literal_fact(
    w: Mapping[str, Tensor], image: Tensor, options: FacTOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    x, _ = embed(w, image)
    s, outputs = options.scale, []
    u, v = w['FacTu.weight'].t(), w['FacTv.weight'].t()  # of row vectors
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        name, core = f'blocks.{i}', cores(w, i)
        y = layer_norm(w, f'{name}.norm1', x, 1e-6)
        qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
        q, k, values = (
            t + s * (y @ u @ core[part] @ v) for t, part in zip(qkv, 'qkv', strict=True)
        )
        y = attend(q, k, values, options.num_heads)
        x = x + linear(w, f'{name}.attn.proj', y) + s * (y @ u @ core['proj'] @ v)
        y = layer_norm(w, f'{name}.norm2', x, 1e-6)
        hidden = y @ u @ core['fc1']
        pieces = hidden.split(len(v), dim=-1)
        update = torch.cat([piece @ v for piece in pieces], dim=-1)
        y = F.gelu(linear(w, f'{name}.mlp.fc1', y) + s * update)
        narrow = torch.cat([piece @ u for piece in y.split(len(u), dim=-1)], dim=-1)
        x = x + linear(w, f'{name}.mlp.fc2', y) + s * (narrow @ core['fc2'] @ v)
        outputs.append(x)
    outputs.append(layer_norm(w, 'norm', x, 1e-6))
    return outputs, linear(w, 'head', outputs[-1][:, 0])


def cores(w, block):
    """Return the cores of a block, which stand to the right of a row vector."""
    if 'FacTc' not in w:
        places = {part: f'attn.{part}' for part in ATTENTION} | {
            part: f'mlp.{part}' for part in MLP
        }
        return {
            part: w[f'blocks.{block}.{place}_FacTs.weight'].t() for part, place in places.items()
        }
    depth = sum(key.endswith('.norm1.weight') for key in w)
    count = w['FacTp'].shape[1] // depth
    k = (count - len(ATTENTION)) // 2
    each = [
        torch.einsum('abc,c->ab', w['FacTc'], w['FacTp'][:, count * block + j])
        for j in range(count)
    ]
    rank = len(w['FacTc'])
    fc1, fc2 = (torch.stack(each[4 + m * k : 4 + (m + 1) * k], dim=2) for m in range(2))
    mlp = {'fc1': fc1.reshape(rank, k * rank), 'fc2': fc2.reshape(rank, k * rank).t()}
    return dict(zip(ATTENTION, each[:4], strict=True)) | mlp


def fact_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int, kind: str,
    rank: int, mlp_ratio: int = 4, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official model; ``kind`` is ``TT`` or ``TK``."""
    trunk = vit_shapes(width, depth, grid, patch, num_classes, width * mlp_ratio, qkv_bias)
    outer = {'FacTu.weight': (rank, width), 'FacTv.weight': (width, rank)}
    if kind == 'TK':
        columns = (len(ATTENTION) + 2 * mlp_ratio) * depth
        return {**trunk, **outer, 'FacTp': (rank, columns), 'FacTc': (rank, rank, rank)}
    shapes = {}
    for i in range(depth):
        for part in ATTENTION:
            shapes[f'blocks.{i}.attn.{part}_FacTs.weight'] = (rank, rank)
        shapes[f'blocks.{i}.mlp.fc1_FacTs.weight'] = (mlp_ratio * rank, rank)
        shapes[f'blocks.{i}.mlp.fc2_FacTs.weight'] = (rank, mlp_ratio * rank)
    return {**trunk, **shapes, **outer}


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return 'FacT' in name or 'head' in name


class LiteralFacT(OfficialModule):
    """`literal_fact` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: FacTOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_fact(self.weights(), image, self.options)
