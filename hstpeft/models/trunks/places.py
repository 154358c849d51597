"""Where a tuner may act on the way of the tokens through a trunk.

Shapes: B batch, L tokens, C width. Tokens are (B, L, C) in a trunk of one sequence and
(B, h, w, C) in a trunk of stages; a place returns the shape that it was given, but for the places
before and after a block of one sequence, which may lengthen and shorten it.

One block, with every place of it::

    tokens = before_block(i, tokens)
    normed = before_attention(i, norm1(tokens))
    branch = after_attention(i, attention(normed), normed)
    tokens = beside_attention(i, tokens) + branch
    tokens = before_mlp_norm(i, tokens)
    normed = before_mlp(i, norm2(tokens))
    branch = after_mlp(i, mlp(normed), normed)
    tokens = beside_mlp(i, tokens) + branch
    tokens = after_block(i, tokens)
"""

from typing import Self

from torch import Tensor

from hstpeft.models.trunks.layout import Layout

PLACES = (
    'after_embedding', 'before_block', 'before_attention', 'after_attention', 'beside_attention',
    'before_mlp_norm', 'before_mlp', 'after_mlp', 'beside_mlp', 'after_block',
)  # fmt: skip
"""The names of all places, in the order in which the tokens pass them."""


class Places:
    """Every place at which a tuner may act; each body here leaves the tokens as they are.

    ``index`` counts the blocks of the whole trunk. A branch is what is about to be added to the
    residual stream, layer scale and drop path included. What a tuner does to the output of a
    named Linear or norm is no place: see `hstpeft.models.trunks.layers`.

    Attributes:
        num_front_tokens: Tokens that a tuner keeps before the patches inside a block, beside the
            trunk's own prefix tokens.
    """

    num_front_tokens: int = 0

    @property
    def acting_places(self) -> frozenset[str]:
        """Those of `PLACES` at which it acts; by default those that its class overrides.

        Several tuners share a trunk by it: a place that is not named here is not called.
        """
        own = type(self)
        return frozenset(p for p in PLACES if getattr(own, p) is not getattr(Places, p))

    def at(self, layout: Layout) -> Self:
        """Return places that know where the patches are, for one pass; by default the same ones.

        Args:
            layout: Holds between the end of `before_block` and the beginning of `after_block`.
        """
        return self

    def after_embedding(self, tokens: Tensor) -> Tensor:
        """Change the embedded image, position embedding included."""
        return tokens

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the entry of a block."""
        return tokens

    def before_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the attention."""
        return tokens

    def after_attention(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Change what the attention adds to the residual stream.

        Args:
            index: Number of the block.
            branch: What the attention made.
            normed: What it read.
        """
        return branch

    def beside_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream that passes by the attention, which does not see it."""
        return tokens

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream between the attention and the norm of the MLP."""
        return tokens

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the MLP."""
        return tokens

    def after_mlp(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Change what the MLP adds to the residual stream.

        Args:
            index: Number of the block.
            branch: What the MLP made.
            normed: What it read.
        """
        return branch

    def beside_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream that passes by the MLP, which does not see it."""
        return tokens

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the exit of a block."""
        return tokens
