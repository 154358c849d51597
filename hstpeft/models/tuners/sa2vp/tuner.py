"""Spatially Aligned-and-Adapted Visual Prompts (https://arxiv.org/abs/2312.10376).

Shapes: B batch, P prefix tokens, N = h * w patches, L = P + N, C trunk width, R inner width.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError, check_least, check_rate
from hstpeft.models.recompute import recomputed
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner, check_needs
from hstpeft.models.tuners.sa2vp.parts import CrossBlock, FrozenCopy, resize_prompt
from hstpeft.models.tuners.sa2vp.sequence import SequenceExchange
from hstpeft.models.tuners.sa2vp.stages import STAGE, StageExchange
from hstpeft.registry import MODELS


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

    What does not depend on the image runs once per batch, and both sequences go through a block as
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

    needs = ('maps', 'block_parts')
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
        check_least('tuner.inner_dims', inner_dims, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.inner_dims, self.mixing_weight, self.drop_rate = inner_dims, mixing_weight, drop_rate
        self.given_exchange, self.given_deep = exchange_indices, deep_prompt_indices
        self.accelerated, self.tie_cross_attention = accelerated, tie_cross_attention

    @property
    def kind(self) -> str:
        """Tell the two functions apart, whose deltas have the same keys."""
        return f'{type(self).__name__}{" (accelerated)" * self.accelerated}'

    def attach(self, trunk: Trunk) -> None:
        """Build the prompts, and a cross block for every block that exchanges."""
        in_stages = 'stages' in trunk.capabilities
        self._check_form(trunk, in_stages)
        self.form = StageExchange if in_stages else SequenceExchange
        if in_stages:
            blocks = trunk.stages()[STAGE][1]
        else:
            blocks = [trunk.block(index) for index in range(trunk.num_layers)]
        count = len(blocks)
        thirds = sorted({third * count // 3 for third in range(3)})
        self.exchange = _indices('exchange_indices', self.given_exchange, thirds, count)
        deep = () if in_stages else self.exchange[1:]
        self.deep = _indices('deep_prompt_indices', self.given_deep, deep, count)
        self.num_prefix_tokens, self.prompt_grid = trunk.num_prefix_tokens, trunk.grid_size
        length = trunk.num_prefix_tokens + trunk.grid_size[0] * trunk.grid_size[1]
        self.prompt = nn.Parameter(torch.empty(1, length, self.inner_dims))
        self.prompt_proj = nn.Linear(self.inner_dims, trunk.stage_dims[0])
        dims = trunk.stage_dims[STAGE if in_stages else 0]
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
        self._initialise(in_stages)

    def description(self) -> dict[str, Any]:
        """Return who reads whom, and how."""
        return {
            'mixing_weight': self.mixing_weight,
            'exchange': self.exchange,
            'deep': self.deep,
            'accelerated': self.accelerated,
        }

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
        return self.form(self, trunk, grid).run(tokens, tap_indices)

    def first_prompt(self, grid: tuple[int, int]) -> Tensor:
        """Return the prompt (1, L, C) that enters beside the image."""
        return self.prompt_proj(self._resized(self.prompt, grid))

    def deep_prompt(self, index: int, grid: tuple[int, int]) -> Tensor:
        """Return the prompt (1, L, C) that a block adds."""
        number = self.deep.index(index)
        return self.deep_projs[number](self._resized(self.deep_prompts[number], grid))

    def for_each(self, prompt: Tensor, batch: int) -> Tensor:
        """Repeat a prompt for every image, if the trunk drops something else for each of them."""
        if self.training and self.trunk_drops:
            return prompt.expand(batch, *prompt.shape[1:])
        return prompt

    def reader(self, index: int) -> int:
        """Tell who reads at a block: 0 the image, 1 the prompt."""
        return int(index in self.exchange)

    def read_again(self, read: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Call, and call again in the backward pass: all that reading needs is kept by the blocks.

        That is a few percent of a step's work; kept, it would be several maps of width C per
        block. With ``with_cp`` the whole block is called again anyway.
        """
        drops = self.drop_rate > 0
        return recomputed(read, *arguments, when=not self.with_cp, preserve_rng_state=drops)

    def _resized(self, prompt: Tensor, grid: tuple[int, int]) -> Tensor:
        return resize_prompt(prompt, grid, self.prompt_grid, self.num_prefix_tokens)

    def _check_form(self, trunk: Trunk, in_stages: bool) -> None:
        """Raise if an option or the trunk does not suit the form that SA2VP takes on this trunk."""
        if not in_stages:
            remedy = 'leave trunk.window_size out, or use another tuner'
            check_needs(self, trunk, ('token_sequence', 'whole_image'), remedy)
            return
        for name, value in (
            ('accelerated', self.accelerated),
            ('deep_prompt_indices', self.given_deep),
        ):
            if value:
                raise UserError(f'tuner.{name} {value} does not exist for a Swin: leave it out')
        if len(trunk.stage_depths) <= STAGE:
            raise UserError(
                f'tuner SA2VPTuner exchanges in the third stage, this Swin has only '
                f'{len(trunk.stage_depths)}: use a Swin of at least 3 stages'
            )

    def _initialise(self, in_stages: bool) -> None:
        """Draw the new parameters as the official code does."""
        tokens = self.token_parameters()
        for parameter in tokens:
            nn.init.trunc_normal_(parameter, std=0.02)
        if self.deep:
            nn.init.normal_(self.deep_scales, std=0.02)
        new = [self.prompt_proj, *self.deep_projs, *self.cross.modules()]
        for linear in (module for module in new if isinstance(module, nn.Linear)):
            if in_stages:
                nn.init.trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            else:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.normal_(linear.bias, std=1e-6)


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
