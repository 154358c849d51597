"""SA2VP where blocks form stages (Swin): the blocks of the third stage exchange.

Shapes: B batch, h w grid of a stage, C width of a stage, K heads, D width of a head.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.models.recompute import recomputed
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.swin_block import run_swin_block
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.sa2vp.neighbours import neighbour_attention

STAGE = 2
"""The stage whose blocks exchange: the long third one."""


class StageExchange:
    """One pass of image and prompt through the stages, for images of one grid.

    Args:
        tuner: The SA2VPTuner whose parameters and options count.
        trunk: The trunk it is attached to.
        grid: (h, w) of the first stage.
    """

    def __init__(self, tuner: Tuner, trunk: Trunk, grid: tuple[int, int]) -> None:
        self.tuner, self.trunk, self.grid = tuner, trunk, grid

    def run(self, image: Tensor, tap_indices: Collection[int]) -> dict[int, Tensor]:
        """Return each tapped stage, the images' (B, h, w, C) and then the prompts' (B, h, w, C)."""
        taps, batch, index = {}, len(image), 0
        prompt = self.tuner.first_prompt(self.grid).to(image.dtype)
        prompt = self.trunk.normalise_patches(prompt).unflatten(1, self.grid)
        prompt = self.tuner.for_each(prompt, batch)
        for stage, (merge, blocks) in enumerate(self.trunk.stages()[: max(tap_indices) + 1]):
            stack = merge(torch.cat([image, prompt]))
            for number, block in enumerate(blocks):
                step = self._exchange if stage == STAGE else self._pass
                arguments = (block, index, number, batch, stack)
                stack = recomputed(step, *arguments, when=self.tuner.with_cp)
                index += 1
            image, prompt = stack[:batch], stack[batch:]
            if stage in tap_indices:
                taps[stage] = torch.cat([image, prompt.expand_as(image)])
        return taps

    def _pass(self, block: nn.Module, index: int, number: int, batch: int, stack: Tensor) -> Tensor:
        """Run images and prompts (B + 1 or 2 B, h, w, C) through a block, apart from each other."""
        return run_swin_block(block, index, stack, self.tuner, self.trunk.attention)

    def _exchange(
        self, block: nn.Module, index: int, number: int, batch: int, stack: Tensor
    ) -> Tensor:
        """Run images and prompts through a block; one reads the other."""
        reads, image, prompt = self.tuner.reader(number), stack[:batch], stack[batch:]
        gain = self.tuner.read_again(self._read, number, block, reads, image, prompt)
        stack = run_swin_block(block, index, stack, self.tuner, self.trunk.attention)
        image, prompt = stack[:batch], stack[batch:]
        return torch.cat([image, prompt + gain] if reads else [image + gain, prompt])

    def _read(
        self, number: int, block: nn.Module, reads: int, image: Tensor, prompt: Tensor
    ) -> Tensor:
        """Let one sequence (B, h, w, C) read the other one."""
        tuner, (reader, other) = self.tuner, (prompt, image) if reads else (image, prompt)
        own = block.attn if tuner.tie_cross_attention else tuner.copies[number]
        norm = block.norm1 if tuner.tie_cross_attention else own.norm
        # The official norm of the cross-attention has another eps than the block's, so that its
        # projections differ from those of the self-attention, with the same weights.
        queries, keys = (
            F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, 1e-6).flatten(1, 2)
            for x in (reader, other)
        )
        q, k, v = _project(own.qkv, queries, keys, block.attn.num_heads)
        batch = max(len(q), len(k))
        q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))
        grid = tuple(reader.shape[1:3])
        mixed = neighbour_attention(q, k, v, grid, 0, block.attn.scale)
        gain = tuner.cross[number](own.proj(mixed), reader.flatten(1, 2))
        return tuner.mixing_weight * gain.unflatten(1, grid)


def _project(
    qkv: nn.Linear, queries: Tensor, keys: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project (B, h * w, C) each to queries of the one, keys and values (B, K, h * w, D) of the other."""
    dims, heads = queries.shape[-1], (num_heads, -1)
    bias = (None, None) if qkv.bias is None else (qkv.bias[:dims], qkv.bias[dims:])
    q = F.linear(queries, qkv.weight[:dims], bias[0])
    kv = F.linear(keys, qkv.weight[dims:], bias[1])
    k, v = kv.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q.unflatten(-1, heads).transpose(1, 2), k, v
