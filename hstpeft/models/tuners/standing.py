"""What a tuner has put in the place of modules of a trunk: found, taken off and put back."""

from collections.abc import Mapping

from torch import nn


def replaced_modules(root: nn.Module, before: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Find what stands where another module stood.

    Args:
        root: A trunk.
        before: Its ``named_modules`` of then.

    Returns:
        The modules of now by their names, outermost ones only.
    """
    found: dict[str, nn.Module] = {}
    for path, module in before.items():  # parents come before their children
        if path and not any(path.startswith(f'{outer}.') for outer in found):
            now = getattr(_parent(root, path), path.rpartition('.')[2], None)
            if now is not module:
                found[path] = now
    return found


def put(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules at their names, in place."""
    for path, module in modules.items():
        setattr(_parent(root, path), path.rpartition('.')[2], module)


def _parent(root: nn.Module, path: str) -> nn.Module:
    return root.get_submodule(path.rpartition('.')[0])
