"""Spatially Aligned-and-Adapted Visual Prompts (https://arxiv.org/abs/2312.10376).

Shapes: B batch, P prefix tokens, N = h * w patches, L = P + N, K heads, D width of a head,
C = K * D trunk width, R inner width.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hstpeft.errors import UserError
from hstpeft.models.trunks import SwinTrunk, Trunk, ViTTrunk
from hstpeft.models.trunks.blocks import (
    apply_norm,
    attend,
    finish_block,
    project_qkv,
    run_maybe_twice,
)
from hstpeft.models.trunks.swin import run_block
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.neighbours import neighbour_attention, padded_neighbour_attention
from hstpeft.registry import MODELS

SWIN_STAGE = 2
"""The stage of a Swin whose blocks exchange: the long third one."""


@MODELS.register_module()
class SA2VPTuner(Tuner):
    """A prompt as large as the image runs through the same frozen blocks, beside it.

    At each block one sequence reads the other: cross-attention, with the block's own frozen
    weights, from a token to the 3 x 3 neighbourhood of its place, then a small MLP; the result is
    added to the reader after the block. At the blocks of ``exchange_indices`` the prompt reads
    the image, at all others the image reads the prompt. Both sequences are returned; a
    `TwoBranchClsHead` trains on both and predicts from the image's.

    In a ViT the blocks of ``deep_prompt_indices`` also add a prompt of their own. In a Swin the
    blocks of the third stage exchange, and there are no deep prompts.

    What does not depend on the image runs once a batch, and both sequences go through a block as
    one batch. Trainable values for a ViT-B/16 with the default options: 202,200.

    Args:
        inner_dims: R, of the prompts and of the MLPs.
        mixing_weight: Factor of what a sequence reads.
        exchange_indices: Blocks at which the prompt reads the image (Swin: counted in the third
            stage). Default: the first of each third of the blocks, as officially.
        deep_prompt_indices: Blocks of a ViT that add a prompt. Default: those of
            ``exchange_indices`` but the first.
        accelerated: Whether a ViT's cross-attention has one head over the full width and sees
            zeros beyond the border (the official ``vit_tinypara_acc``) instead of the trunk's
            heads and a clipped neighbourhood. The two are different functions.
        tie_cross_attention: Whether the cross-attention shares the block's weights. False keeps
            frozen copies of its own, which go into the delta: for checkpoints whose copies differ.
        drop_rate: Dropout in the MLPs and after the cross-attention (0.1 in the official recipe).
    """

    trunk_types = (ViTTrunk, SwinTrunk)
    num_branches = 2

    def __init__(
        self,
        inner_dims: int = 8,
        mixing_weight: float = 0.1,
        exchange_indices: Sequence[int] | None = None,
        deep_prompt_indices: Sequence[int] | None = None,
        accelerated: bool = False,
        tie_cross_attention: bool = True,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if inner_dims < 1:
            raise UserError(f'tuner.inner_dims {inner_dims} must be at least 1')
        if not 0 <= drop_rate < 1:
            raise UserError(f'tuner.drop_rate {drop_rate} must be from 0 to below 1')
        self.inner_dims, self.mixing_weight, self.drop_rate = inner_dims, mixing_weight, drop_rate
        self.given_exchange, self.given_deep = exchange_indices, deep_prompt_indices
        self.accelerated, self.tie_cross_attention = accelerated, tie_cross_attention

    @property
    def kind(self) -> str:
        """Tell the two functions apart, whose deltas have the same keys."""
        return f'{type(self).__name__}{" (accelerated)" * self.accelerated}'

    def attach(self, trunk: Trunk) -> None:
        """Build the prompts, and a cross block for every block that exchanges."""
        in_swin = isinstance(trunk, SwinTrunk)
        if in_swin:
            self._check_swin(trunk)
            blocks = list(trunk.swin.layers[SWIN_STAGE].blocks)
        else:
            if trunk.window_size:
                raise UserError(
                    f'trunk.window_size {trunk.window_size} does not suit an SA2VPTuner, whose '
                    'two sequences run without windows: leave it out, or use another tuner'
                )
            blocks = [trunk.block(index) for index in range(trunk.num_layers)]
        count = len(blocks)
        thirds = sorted({third * count // 3 for third in range(3)})
        self.exchange = _indices('exchange_indices', self.given_exchange, thirds, count)
        deep = () if in_swin else self.exchange[1:]
        self.deep = _indices('deep_prompt_indices', self.given_deep, deep, count)
        length = trunk.num_prefix_tokens + trunk.grid_size[0] * trunk.grid_size[1]
        self.prompt_grid = trunk.grid_size
        self.prompt = nn.Parameter(torch.empty(1, length, self.inner_dims))
        self.prompt_proj = nn.Linear(self.inner_dims, trunk.stage_dims[0])
        dims = trunk.stage_dims[SWIN_STAGE if in_swin else 0]
        if self.deep:
            shape = (len(self.deep), 1, length, self.inner_dims)
            self.deep_prompts = nn.Parameter(torch.empty(shape))
            self.deep_scales = nn.Parameter(torch.empty(len(self.deep), dims))
        self.deep_projs = nn.ModuleList(nn.Linear(self.inner_dims, dims) for _ in self.deep)
        self.cross = nn.ModuleList(
            CrossBlock(dims, self.inner_dims, self.drop_rate) for _ in blocks
        )
        if not self.tie_cross_attention:
            self.copies = nn.ModuleList(FrozenCopy(block) for block in blocks)
        self.trunk_drops = any(
            getattr(module, 'drop_prob', 0) or (isinstance(module, nn.Dropout) and module.p)
            for module in trunk.modules()
        )
        self._initialise(in_swin)

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return nothing: the whole trunk stays frozen."""
        return []

    def own_parameters(self) -> list[nn.Parameter]:
        """Return everything but the frozen copies of cross-attention weights."""
        copies = [] if self.tie_cross_attention else self.copies.parameters()
        frozen = {id(parameter) for parameter in copies}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the prompts."""
        return [self.prompt, *([self.deep_prompts] if self.deep else [])]

    def run(
        self, trunk: Trunk, tokens: Tensor, grid: tuple[int, int], tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        """Run image and prompt through the blocks.

        Returns:
            Each tapped output, the images' (B, ...) and then the prompts' (B, ...).
        """
        run = self._run_swin if isinstance(trunk, SwinTrunk) else self._run_vit
        return run(trunk, tokens, grid, tap_indices)

    def _run_vit(
        self, trunk: ViTTrunk, image: Tensor, grid: tuple[int, int], tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        taps, batch, prefix = {}, len(image), trunk.num_prefix_tokens
        prompt = self._project(self.prompt_proj, self.prompt, grid, prefix).to(image.dtype)
        prompt = trunk.add_position(self._for_each(prompt, batch), grid)
        for index in range(max(tap_indices) + 1):
            arguments = (trunk.block(index), index, grid, prefix, image, prompt)
            image, prompt = run_maybe_twice(self._exchange_vit, *arguments, with_cp=self.with_cp)
            if index in tap_indices:
                taps[index] = torch.cat([image, prompt.expand_as(image)])
        return taps

    def _exchange_vit(
        self,
        block: nn.Module,
        index: int,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        image: Tensor,
        prompt: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run image (B, L, C) and prompt (B or 1, L, C) through a block; one reads the other."""
        parts = [image, prompt]
        if index in self.deep:
            deep = self._deep_prompt(index, grid, num_prefix_tokens)
            parts.append(self._for_each(deep, len(image)))
        sizes = [len(part) for part in parts]
        stack = torch.cat(parts).to(image.dtype)
        normed = apply_norm(block.norm1, stack)
        q, k, v = project_qkv(block.attn, normed)
        branch = attend(block.attn, q, k, v)
        if not self.tie_cross_attention:
            own = self.copies[index]
            q, k, v = own.project(own.norm(stack), block.attn.num_heads)
        reads = self._reader(index)
        q, k, v = q.split(sizes)[reads], k.split(sizes)[1 - reads], v.split(sizes)[1 - reads]
        reader = stack.split(sizes)[reads]
        gain = self._again(self._read_vit, index, block, grid, num_prefix_tokens, q, k, v, reader)
        image, prompt, *deep = finish_block(block, stack, branch).split(sizes)
        if deep:
            prompt = prompt + self.deep_scales[self.deep.index(index)] * deep[0]
        return (image, prompt + gain) if reads else (image + gain, prompt)

    def _read_vit(
        self,
        index: int,
        block: nn.Module,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        reader: Tensor,
    ) -> Tensor:
        """Let a reader (B or 1, L, C) with queries q read the keys and values of the other one."""
        batch = max(len(q), len(k))
        q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))
        if self.accelerated:
            mixed = padded_neighbour_attention(q, k, v, grid, num_prefix_tokens)
        else:
            mixed = neighbour_attention(q, k, v, grid, num_prefix_tokens, block.attn.scale)
        proj = block.attn.proj if self.tie_cross_attention else self.copies[index].proj
        return self.mixing_weight * self.cross[index](proj(mixed), reader)

    def _run_swin(
        self, trunk: SwinTrunk, image: Tensor, grid: tuple[int, int], tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        taps, batch, index = {}, len(image), 0
        prompt = self._project(self.prompt_proj, self.prompt, grid, 0).to(image.dtype)
        prompt = apply_norm(trunk.swin.patch_embed.norm, prompt).unflatten(1, grid)
        prompt = self._for_each(prompt, batch)
        for stage, layer in enumerate(trunk.swin.layers[: max(tap_indices) + 1]):
            stack = layer.downsample(torch.cat([image, prompt]))
            for number, block in enumerate(layer.blocks):
                step = self._exchange_swin if stage == SWIN_STAGE else self._pass_swin
                arguments = (block, index, number, batch, stack)
                stack = run_maybe_twice(step, *arguments, with_cp=self.with_cp)
                index += 1
            image, prompt = stack[:batch], stack[batch:]
            if stage in tap_indices:
                taps[stage] = torch.cat([image, prompt.expand_as(image)])
        return taps

    def _pass_swin(
        self, block: nn.Module, index: int, number: int, batch: int, stack: Tensor
    ) -> Tensor:
        """Run images and prompts (B + 1 or 2 B, h, w, C) through a block, apart from each other."""
        return run_block(block, index, stack, self)

    def _exchange_swin(
        self, block: nn.Module, index: int, number: int, batch: int, stack: Tensor
    ) -> Tensor:
        """Run images and prompts through a block of the third stage; one reads the other."""
        reads, image, prompt = self._reader(number), stack[:batch], stack[batch:]
        gain = self._again(self._read_swin, number, block, reads, image, prompt)
        stack = run_block(block, index, stack, self)
        image, prompt = stack[:batch], stack[batch:]
        return torch.cat([image, prompt + gain] if reads else [image + gain, prompt])

    def _read_swin(
        self, number: int, block: nn.Module, reads: int, image: Tensor, prompt: Tensor
    ) -> Tensor:
        """Let one sequence (B, h, w, C) read the other one in a Swin."""
        reader, other = (prompt, image) if reads else (image, prompt)
        own = block.attn if self.tie_cross_attention else self.copies[number]
        norm = block.norm1 if self.tie_cross_attention else own.norm
        # The official norm of the cross-attention has another eps than the block's.
        queries, keys = (
            F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, 1e-6).flatten(1, 2)
            for x in (reader, other)
        )
        dims, heads = queries.shape[-1], (block.attn.num_heads, -1)
        bias = own.qkv.bias
        q = F.linear(queries, own.qkv.weight[:dims], None if bias is None else bias[:dims])
        kv = F.linear(keys, own.qkv.weight[dims:], None if bias is None else bias[dims:])
        k, v = kv.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
        q = q.unflatten(-1, heads).transpose(1, 2)
        batch = max(len(q), len(k))
        q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))
        grid = tuple(reader.shape[1:3])
        mixed = neighbour_attention(q, k, v, grid, 0, block.attn.scale)
        gain = self.cross[number](own.proj(mixed), reader.flatten(1, 2))
        return self.mixing_weight * gain.unflatten(1, grid)

    def _again(self, read: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Call, and in the backward pass call again: all that reading needs is kept by the blocks.

        That is a few percent of a step's work; kept, it would be several maps of width C a block.
        With ``with_cp`` the whole block is called again anyway.
        """
        if self.with_cp:
            return read(*arguments)
        return checkpoint(
            read, *arguments, use_reentrant=False, preserve_rng_state=self.drop_rate > 0
        )

    def _reader(self, index: int) -> int:
        """Tell who reads at a block: 0 the image, 1 the prompt."""
        return int(index in self.exchange)

    def _project(
        self, proj: nn.Linear, prompt: Tensor, grid: tuple[int, int], num_prefix_tokens: int
    ) -> Tensor:
        """Widen a prompt (1, L, R) to (1, L, C), resized to the image's grid."""
        if grid != self.prompt_grid:
            prefix, patches = prompt[:, :num_prefix_tokens], prompt[:, num_prefix_tokens:]
            patches = patches.transpose(1, 2).unflatten(2, self.prompt_grid)
            patches = F.interpolate(patches, grid, mode='bilinear', align_corners=False)
            prompt = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
        return proj(prompt)

    def _deep_prompt(self, index: int, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
        """Return the prompt (1, L, C) that a block adds."""
        number = self.deep.index(index)
        proj, prompt = self.deep_projs[number], self.deep_prompts[number]
        return self._project(proj, prompt, grid, num_prefix_tokens)

    def _for_each(self, prompt: Tensor, batch: int) -> Tensor:
        """Repeat a prompt for every image, if the trunk drops something else for each of them."""
        if self.training and self.trunk_drops:
            return prompt.expand(batch, *prompt.shape[1:])
        return prompt

    def _check_swin(self, trunk: SwinTrunk) -> None:
        for name, value in (
            ('accelerated', self.accelerated),
            ('deep_prompt_indices', self.given_deep),
        ):
            if value:
                raise UserError(f'tuner.{name} {value} does not exist for a Swin: leave it out')
        if len(trunk.stage_depths) <= SWIN_STAGE:
            raise UserError(
                f'tuner SA2VPTuner exchanges in the third stage, this Swin has only '
                f'{len(trunk.stage_depths)}: use a Swin of at least 3 stages'
            )

    def _initialise(self, in_swin: bool) -> None:
        """Draw the new parameters as the official code does."""
        tokens = self.token_parameters()
        for parameter in tokens:
            nn.init.trunc_normal_(parameter, std=0.02)
        if self.deep:
            nn.init.normal_(self.deep_scales, std=0.02)
        new = [self.prompt_proj, *self.deep_projs, *self.cross.modules()]
        for linear in (module for module in new if isinstance(module, nn.Linear)):
            if in_swin:
                nn.init.trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            else:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.normal_(linear.bias, std=1e-6)


class CrossBlock(nn.Module):
    """What is learned about reading: norm and a narrow MLP, without a residual around them."""

    def __init__(self, dims: int, inner_dims: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.down = nn.Linear(dims, inner_dims)
        self.up = nn.Linear(inner_dims, dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, read: Tensor, reader: Tensor) -> Tensor:
        """Turn what was read (B, L, C) and the reader (B or 1, L, C) into (B, L, C)."""
        tokens = (self.drop(read) + reader).to(self.norm.weight.dtype)
        hidden = self.drop(F.gelu(self.down(self.norm(tokens))))
        return self.drop(self.up(hidden)).to(read.dtype)


class FrozenCopy(nn.Module):
    """Cross-attention weights apart from the block's."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm = copy.deepcopy(block.norm1)
        self.qkv, self.proj = copy.deepcopy(block.attn.qkv), copy.deepcopy(block.attn.proj)

    def project(self, normed: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Project normalised tokens (B, L, C) to queries, keys and values (B, K, L, D) each."""
        qkv = self.qkv(normed).unflatten(-1, (3, num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _indices(
    name: str, given: Sequence[int] | None, default: Sequence[int], count: int
) -> tuple[int, ...]:
    """Check block numbers, or take the default."""
    indices = tuple(default if given is None else given)
    if len(set(indices)) != len(indices) or list(indices) != sorted(indices):
        raise UserError(f'tuner.{name} {indices} must be different numbers in rising order')
    if indices and not 0 <= indices[0] <= indices[-1] < count:
        raise UserError(
            f'tuner.{name} {indices} are out of range: there are {count} blocks, 0 to {count - 1}'
        )
    return indices
