"""Visual Prompt Tuning (https://arxiv.org/abs/2203.12119).

Shapes: B batch, T prompt tokens, P prefix tokens, L tokens, C width of a block, R prompt width.
"""

import math

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError, check_least, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class VPTTuner(Tuner):
    """Prompt tokens between the prefix tokens and the patches.

    Shallow: they enter once and travel along. Deep: every further block has prompt tokens of its
    own, which replace what became of those before. In a Swin every window reads a copy of them, of
    its own image (the official code mixes up those of a batch).
    Prompts are uniform in +-sqrt(6 / (3 patch^2 + R)) at first. An average over the tokens
    (``avg_featmap``) includes the prompts, as officially; maps do not.

    Trainable values: T C, deep the sum of T C over the blocks; for a ViT-B/16 with the default
    options 46,080 (shallow 3,840), for a Swin-B 60,160 (640).

    Args:
        num_tokens: T.
        deep: Whether every block has prompt tokens of its own.
        prompt_dims: R, from which one shared Linear widens all prompts to C; None for R = C
            without one. Not in a Swin, whose blocks have several widths.
        drop_rate: Dropout of the prompts.
    """

    needs = ('front_tokens',)

    def __init__(
        self,
        num_tokens: int = 5,
        deep: bool = True,
        prompt_dims: int | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_least('tuner.num_tokens', num_tokens, 1)
        check_least('tuner.prompt_dims', 1 if prompt_dims is None else prompt_dims, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.num_tokens = self.num_front_tokens = num_tokens
        self.deep, self.prompt_dims, self.drop = deep, prompt_dims, nn.Dropout(drop_rate)

    def attach(self, trunk: Trunk) -> None:
        """Build the prompts of the first block or of every block, and the shared Linear."""
        if self.prompt_dims is not None and 'stages' in trunk.capabilities:
            raise UserError(
                f'tuner.prompt_dims {self.prompt_dims} does not exist for a Swin: leave it out'
            )
        self.num_prefix_tokens = trunk.num_prefix_tokens
        self.in_stages = 'stages' in trunk.capabilities
        dims = trunk.block_dims if self.deep else trunk.block_dims[:1]
        widths = [self.prompt_dims or width for width in dims]
        self.prompts = nn.ParameterList(torch.empty(1, self.num_tokens, w) for w in widths)
        for prompt in self.prompts:
            bound = math.sqrt(6 / (3 * math.prod(trunk.patch_size) + prompt.shape[-1]))
            nn.init.uniform_(prompt, -bound, bound)
        self.proj = nn.Linear(widths[0], dims[0]) if self.prompt_dims else nn.Identity()
        if self.prompt_dims:
            nn.init.kaiming_normal_(self.proj.weight, a=0, mode='fan_out')

    @property
    def acting_places(self) -> frozenset[str]:
        """The entry, and deep that of every block."""
        return frozenset({'after_embedding', *(['before_block'] if self.deep else [])})

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the prompts."""
        return list(self.prompts)

    def after_embedding(self, tokens: Tensor) -> Tensor:
        """Put the first prompts between prefix and patches of tokens (B, L, C)."""
        return self._put(0, tokens, self.num_prefix_tokens)

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Replace the prompts in tokens (B, L, C), if this block has its own."""
        if index == 0 or not self.deep:
            return tokens
        return self._put(index, tokens, self.num_prefix_tokens + self.num_tokens)

    def without_own_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Take the prompts out of an output (B, L, C)."""
        start, end = self.num_prefix_tokens, self.num_prefix_tokens + self.num_tokens
        kept = torch.cat([tokens[:, :start], tokens[:, end:]], dim=1)
        return kept.unflatten(1, grid) if self.in_stages else kept

    def _put(self, index: int, tokens: Tensor, rest: int) -> Tensor:
        """Put prompts behind the prefix tokens; what follows them begins at token ``rest``."""
        prompt = self.drop(self.proj(self.prompts[index])).to(tokens.dtype)
        prompt = prompt.expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, : self.num_prefix_tokens], prompt, tokens[:, rest:]], dim=1)
