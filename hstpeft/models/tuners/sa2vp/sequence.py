"""SA2VP where the tokens are one sequence (ViT).

Shapes: B batch, P prefix tokens, N = h * w patches, L = P + N, K heads, D width of a head,
C = K * D trunk width.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from hstpeft.models.recompute import recomputed
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.blocks import apply_norm, attend, finish_block, project_qkv
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.sa2vp.neighbours import (
    neighbour_attention,
    padded_neighbour_attention,
)


class SequenceExchange:
    """One pass of image and prompt through the blocks, for images of one grid.

    Args:
        tuner: The SA2VPTuner whose parameters and options count.
        trunk: The trunk it is attached to.
        grid: (h, w).
    """

    def __init__(self, tuner: Tuner, trunk: Trunk, grid: tuple[int, int]) -> None:
        self.tuner, self.trunk, self.grid = tuner, trunk, grid
        self.num_prefix_tokens = trunk.num_prefix_tokens

    def run(self, image: Tensor, tap_indices: Collection[int]) -> dict[int, Tensor]:
        """Return each tapped output, the images' (B, L, C) and then the prompts' (B, L, C)."""
        tuner, taps, batch = self.tuner, {}, len(image)
        prompt = tuner.first_prompt(self.grid).to(image.dtype)
        prompt = self.trunk.add_position(tuner.for_each(prompt, batch), self.grid)
        for index in range(max(tap_indices) + 1):
            arguments = (self.trunk.block(index), index, image, prompt)
            image, prompt = recomputed(self._step, *arguments, when=tuner.with_cp)
            if index in tap_indices:
                taps[index] = torch.cat([image, prompt.expand_as(image)])
        return taps

    def _step(
        self, block: nn.Module, index: int, image: Tensor, prompt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run image (B, L, C) and prompt (B or 1, L, C) through a block; one reads the other.

        All that goes through the block (image, prompt, the prompt that this block adds) is one
        batch. The cross-attention reads with the block's own weights from the block's own
        normalised inputs, so its q, k and v are those of the self-attention.
        """
        tuner, parts = self.tuner, [image, prompt]
        if index in tuner.deep:
            parts.append(tuner.for_each(tuner.deep_prompt(index, self.grid), len(image)))
        sizes = [len(part) for part in parts]
        stack = torch.cat(parts).to(image.dtype)
        normed = apply_norm(block.norm1, stack)
        q, k, v = project_qkv(block.attn, normed)
        branch = attend(block.attn, q, k, v)
        if not tuner.tie_cross_attention:
            own = tuner.copies[index]
            q, k, v = own.project(own.norm(stack), block.attn.num_heads)
        reads = tuner.reader(index)
        q, k, v = q.split(sizes)[reads], k.split(sizes)[1 - reads], v.split(sizes)[1 - reads]
        reader = stack.split(sizes)[reads]
        gain = tuner.read_again(self._read, index, block, q, k, v, reader)
        finished = finish_block(block, index, stack, normed, branch, tuner)
        image, prompt, *deep = finished.split(sizes)
        if deep:
            prompt = prompt + tuner.deep_scales[tuner.deep.index(index)] * deep[0]
        return (image, prompt + gain) if reads else (image + gain, prompt)

    def _read(
        self, index: int, block: nn.Module, q: Tensor, k: Tensor, v: Tensor, reader: Tensor
    ) -> Tensor:
        """Let a reader (B or 1, L, C) with queries q read the keys and values of the other one."""
        tuner, batch = self.tuner, max(len(q), len(k))
        q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))
        where = (self.grid, self.num_prefix_tokens)
        if tuner.accelerated:
            mixed = padded_neighbour_attention(q, k, v, *where)
        else:
            mixed = neighbour_attention(q, k, v, *where, block.attn.scale)
        proj = block.attn.proj if tuner.tie_cross_attention else tuner.copies[index].proj
        return tuner.mixing_weight * tuner.cross[index](proj(mixed), reader)
