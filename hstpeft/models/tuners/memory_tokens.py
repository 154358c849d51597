"""Learnable memory tokens (the token memory of HMA; https://arxiv.org/abs/2203.15243).

Shapes: B batch, M memory tokens, L tokens, C trunk width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import check_choice, check_least
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.registry import MODELS

MODES = ('prop', 'standard')


@MODELS.register_module()
class MemoryTokensTuner(Tuner):
    """Learned tokens behind the sequence, and the class token, are all that is trained.

    ``prop``: the tokens enter at the first block and stay to the end; an average over the
    sequence (``avg_featmap``) includes them, as officially. ``standard``: each block has tokens
    of its own, cut off at its exit.

    Trainable values: M C, ``standard`` for every block, and C of the class token; 4,608 for a
    ViT-B/16 with the default options (``standard`` 46,848).

    Args:
        mode: ``prop`` or ``standard``.
        num_memory_tokens: M.
        train_cls_token: Whether the trunk's class token is trained too (official default).
    """

    needs = ('token_sequence', 'one_stage')

    def __init__(
        self, mode: str = 'prop', num_memory_tokens: int = 5, train_cls_token: bool = True
    ) -> None:
        super().__init__()
        check_choice('tuner.mode', mode, MODES)
        check_least('tuner.num_memory_tokens', num_memory_tokens, 1)
        self.mode, self.num_memory_tokens = mode, num_memory_tokens
        self.train_cls_token = train_cls_token

    def attach(self, trunk: Trunk) -> None:
        """Build the tokens of the first block, or of every block."""
        count = 1 if self.mode == 'prop' else trunk.num_layers
        shape = (1, self.num_memory_tokens, trunk.embed_dims)
        self.memory_tokens = nn.ParameterList(0.02 * torch.randn(shape) for _ in range(count))

    @property
    def acting_places(self) -> frozenset[str]:
        """The entry of a block, and its exit where the tokens are cut off."""
        return frozenset({'before_block', *(['after_block'] if self.mode == 'standard' else [])})

    def description(self) -> dict[str, Any]:
        """Return the mode."""
        return {'mode': self.mode}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the class token, if it is trained and there is one."""
        token = trunk.cls_token if self.train_cls_token else None
        return [] if token is None else [token]

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the memory tokens."""
        return list(self.memory_tokens)

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Append this block's memory tokens, if it has any."""
        if index >= len(self.memory_tokens):
            return tokens
        memory = self.memory_tokens[index].to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([tokens, memory], dim=1)

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Cut off this block's memory tokens, unless they stay."""
        return tokens if self.mode == 'prop' else tokens[:, : -self.num_memory_tokens]
