"""Hierarchical Side-Tuning as its equations say it, by the official names of the weights.

Shapes: B batch, M meta tokens, P prefix tokens, N = h * w patches, C trunk width, D side width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.module import OfficialModule


@dataclass(frozen=True)
class HSTOptions:
    """What the weights do not tell: heads, blocks of each stage, drop path."""

    num_heads: int
    side_heads: Sequence[int] = (2, 4, 8, 12)
    side_depths: Sequence[int] = (3, 3, 3, 3)
    tap_indices: Sequence[int] | None = None  # default: the first sum(side_depths) blocks
    drop_path_rate: float = 0.0  # of the trunk
    side_drop_path_rate: float = 0.0


def literal_hst(
    weights: Mapping[str, Tensor], image: Tensor, options: HSTOptions, training: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return four maps (B, D, H, W) and the logits; training updates the running statistics."""
    taps, grid = trunk(weights, image, options, training)
    maps = side(weights, image, taps, grid, options, training)
    x = batch_norm(weights, 'fc_norm', maps[-1].mean(dim=(2, 3)), 1e-6, training)
    return maps, linear(weights, 'head', x)


def trunk(w, image, options, training):
    """Run the blocks; return each block's meta tokens and patch map (B, C, h, w), and the grid."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    grid, x = tuple(x.shape[-2:]), x.flatten(2).transpose(1, 2)
    prefix = [w[key].expand(len(x), -1, -1) for key in ('cls_token', 'reg_token') if key in w]
    num_prefix, num_meta = sum(t.shape[1] for t in prefix), w['m_embeddings.0'].shape[1]
    x = torch.cat([*prefix, x], dim=1) + w['pos_embed']
    depth = sum(key.endswith('.attn.qkv.weight') for key in w)
    rates, taps = torch.linspace(0, options.drop_path_rate, depth).tolist(), []
    num_run = sum(key.startswith('m_embeddings.') for key in w)  # blocks up to the last tap
    for i, rate in enumerate(rates[:num_run]):
        x = torch.cat([w[f'm_embeddings.{i}'].expand(len(x), -1, -1), x], dim=1)
        qkv = linear(w, f'blocks.{i}.attn.qkv', layer_norm(w, f'blocks.{i}.norm1', x, 1e-6))
        branch = attend(*qkv.chunk(3, dim=-1), options.num_heads)
        branch = linear(w, f'blocks.{i}.attn.proj', branch)
        x = x + drop_path(branch, rate, training, trunk_mask)
        x = x + drop_path(norm_mlp(w, f'blocks.{i}', x), rate, training, trunk_mask)
        meta, x = x[:, :num_meta], x[:, num_meta:]
        taps.append((meta, x[:, num_prefix:].transpose(1, 2).unflatten(2, grid)))
    return taps, grid


def side(w, x, taps, grid, options, training):
    """Run the four stages on an image and the taps; return their maps."""
    indices = options.tap_indices or range(sum(options.side_depths))
    rates = torch.linspace(0, options.side_drop_path_rate, sum(options.side_depths)).tolist()
    maps, k = [], 0  # k: number of the side block over all stages
    for s, heads, depth in zip((1, 2, 3, 4), options.side_heads, options.side_depths, strict=True):
        if s == 1:
            x = F.conv2d(x, w['m_patch_embed1.conv.0.weight'], stride=2, padding=1)
            x = F.relu(batch_norm(w, 'm_patch_embed1.conv.1', x, 1e-5, training))
        x = conv(w, f'm_patch_embed{s}.' + ('conv.3' if s == 1 else 'proj'), x, int(s > 1))
        size, x = tuple(x.shape[-2:]), x.flatten(2).transpose(1, 2)
        x = layer_norm(w, f'm_patch_embed{s}.norm', x, 1e-5)
        for j in range(depth):
            name, (meta, patches) = f'm_block{s}.{j}', taps[indices[k]]
            m = layer_norm(w, f'm_proj_norm{k + 1}', linear(w, f'T_Bridge_{s}', meta), 1e-5)
            v = F.interpolate(patches, size=size, mode='bilinear', align_corners=False)
            v = linear(w, f'T_Bridge_{s}', v.flatten(2).transpose(1, 2))
            keys = torch.cat([m, v.mean(dim=1, keepdim=True)], dim=1)
            read = {'q': layer_norm(w, f'{name}.norm1', x, 1e-6), 'k': keys, 'v': keys}
            qkv = (linear(w, f'{name}.attn.{part}', tokens) for part, tokens in read.items())
            branch = linear(w, f'{name}.attn.proj', attend(*qkv, heads))
            x = x + drop_path(branch, rates[k], training, side_mask) + v
            x = x + drop_path(norm_mlp(w, name, x), rates[k], training, side_mask)
            k += 1
        maps.append(x := layer_norm(w, f'm_norm{s}', x, 1e-6).transpose(1, 2).unflatten(2, size))
    return maps


def attend(q, k, v, heads):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def norm_mlp(w, name, x):
    x = F.gelu(linear(w, f'{name}.mlp.fc1', layer_norm(w, f'{name}.norm2', x, 1e-6)))
    return linear(w, f'{name}.mlp.fc2', x)


def linear(w, name, x):
    return F.linear(x, w[f'{name}.weight'], w.get(f'{name}.bias'))


def conv(w, name, x, padding):
    return F.conv2d(x, w[f'{name}.weight'], w[f'{name}.bias'], 2, padding)


def layer_norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'], eps)


def batch_norm(w, name, x, eps, training):
    leaves = [w.get(f'{name}.{k}') for k in ('running_mean', 'running_var', 'weight', 'bias')]
    return F.batch_norm(x, *leaves, training, 0.1, eps)


def drop_path(x, rate, training, draw):
    return x * draw(x, 1 - rate) / (1 - rate) if training and rate else x


def trunk_mask(x, keep):
    return x.new_empty(len(x), 1, 1).bernoulli_(keep)


def side_mask(x, keep):
    return (keep + torch.rand(len(x), 1, 1, dtype=x.dtype, device=x.device)).floor()


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    parts = 'm_' in name or ('block' in name and 'norm' in name) or 'T_Bridge' in name
    return parts or name in ('head.weight', 'head.bias')


def is_buffer(name: str) -> bool:
    """Tell the statistics of the BatchNorms from parameters."""
    return '.running_' in name or name.endswith('num_batches_tracked')


class LiteralHST(OfficialModule):
    """`literal_hst` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: HSTOptions) -> None:
        super().__init__(official, is_trainable, is_buffer)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_hst(self.weights(), image, self.options, self.training)
