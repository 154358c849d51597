"""A hook of a user that adds to checkpoints, behind all others."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class LateHook(Hook):
    """Adds a list."""

    def before_save_checkpoint(self, runner: object, checkpoint: dict) -> None:
        """Add it."""
        checkpoint['late'] = [1, 2]
