"""Names of official checkpoints with learnable memory tokens (HMA's modified timm), and ours."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError

_HEAD = {'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}
_TOKENS = 'backbone.tuner.memory_tokens.'


def memory_token_names(blocks: int) -> dict[str, str]:
    """Pair the names of tokens and head with ours; the trunk's are timm's.

    Args:
        blocks: Blocks that have memory tokens: 1 for ``prop``, all for ``standard``.
    """
    return {**{f'blocks.{i}.added_mem': f'{_TOKENS}{i}' for i in range(blocks)}, **_HEAD}


def split_memory_tokens(
    official: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official checkpoint into the trunk by timm's names and the rest by ours.

    Raises:
        UserError: There are no memory tokens, or no head.
    """
    blocks = sum(key.endswith('.added_mem') for key in official)
    names = memory_token_names(blocks)
    missing = sorted(names.keys() - official.keys())
    if not blocks or missing:
        raise UserError(f'not an official checkpoint with memory tokens: missing {missing}')
    trunk = {key: value for key, value in official.items() if key not in names}
    return trunk, {own: official[key] for key, own in names.items()}


def join_memory_tokens(
    trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Make an official checkpoint; the inverse of `split_memory_tokens`."""
    names = memory_token_names(sum(key.startswith(_TOKENS) for key in state))
    return {**trunk, **{official: state[own] for official, own in names.items()}}
