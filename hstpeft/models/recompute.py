"""Activation checkpointing: the one place where something is computed again in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(
    function: Callable[..., Any],
    *arguments: Any,
    when: bool = True,
    preserve_rng_state: bool = True,
) -> Any:
    """Call a function and keep its arguments alone; the backward pass calls it again.

    Same outputs and gradients, of all that happens inside nothing is kept. torch's reentrant form,
    which mmengine uses, would give what is trained behind frozen inputs no gradient.

    Args:
        function: What to call.
        arguments: Its arguments.
        when: Whether to do so; otherwise, and where no gradient is asked for, it is a plain call.
        preserve_rng_state: Whether the second call draws the same random numbers; False where it
            draws none, which saves the copy of the random state.
    """
    if not (when and torch.is_grad_enabled()):
        return function(*arguments)
    return checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=preserve_rng_state
    )
