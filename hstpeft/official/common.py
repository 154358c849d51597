"""Renaming between official checkpoints and ours.

An official key stands for one of our tensors, or for a third of one: where the official code has
query, key and value apart, timm has them in one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hstpeft.errors import UserError

TRUNK = 'backbone.trunk.vit.'
SWIN = 'backbone.trunk.swin.'
TUNER = 'backbone.tuner.'

Names = Mapping[str, str | tuple[str, int]]
"""Official key -> our key, or (our key, third of its rows)."""


def translate(official: Mapping[str, Tensor], names: Names, system: str) -> dict[str, Tensor]:
    """Rename an official checkpoint's tensors.

    Raises:
        UserError: Some keys are missing or left over; lists them.
    """
    missing, extra = sorted(names.keys() - official.keys()), sorted(official.keys() - names.keys())
    if missing or extra:
        raise UserError(
            f'not an official {system} checkpoint: missing {missing[:6]}, left over {extra[:6]}'
        )
    own: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, name in names.items():
        if isinstance(name, str):
            own[name] = official[key]
        else:
            thirds.setdefault(name[0], {})[name[1]] = official[key]
    return {**own, **{name: torch.cat([t[i] for i in range(3)]) for name, t in thirds.items()}}


def untranslate(own: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Undo `translate`."""
    return {
        key: own[name] if isinstance(name, str) else own[name[0]].chunk(3)[name[1]]
        for key, name in names.items()
    }


def split_trunk(
    own: Mapping[str, Tensor], prefix: str = TRUNK
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part tensors by our names into the trunk's, by timm's names, and the rest."""
    trunk = {key.removeprefix(prefix): own[key] for key in own if key.startswith(prefix)}
    return trunk, {key: own[key] for key in own if not key.startswith(prefix)}


def split_trained(
    official: Mapping[str, Tensor], names: Names, system: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part a checkpoint whose trunk keeps its own names, or is not in it, from what was trained.

    Args:
        official: The checkpoint.
        names: Of what was trained.
        system: For the message.

    Returns:
        The trunk by its own names, and the rest by ours.

    Raises:
        UserError: Something that was trained is missing.
    """
    trunk = {key: value for key, value in official.items() if key not in names}
    trained = {key: value for key, value in official.items() if key in names}
    return trunk, translate(trained, names, system)


def join_trunk(
    trunk: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str = TRUNK
) -> dict[str, Tensor]:
    """Undo `split_trunk`; the trunk is whole, ``state`` a model's state dict."""
    return {**state, **{prefix + key: value for key, value in trunk.items()}}


def leaves(pairs: Mapping[str, str | tuple[str, int]]) -> dict[str, str | tuple[str, int]]:
    """Add ``.weight`` and ``.bias`` to the names of modules."""
    names: dict[str, str | tuple[str, int]] = {}
    for official, own in pairs.items():
        for leaf in ('weight', 'bias'):
            if isinstance(own, str):
                names[f'{official}.{leaf}'] = f'{own}.{leaf}'
            else:
                names[f'{official}.{leaf}'] = (f'{own[0]}.{leaf}', own[1])
    return names


def swin_names(
    depths: tuple[int, ...], prefix: str = '', qkv_bias: bool = True
) -> dict[str, str | tuple[str, int]]:
    """Pair the names of an official Swin with ours; its patch merging ends the stage before.

    Args:
        depths: Blocks of each stage.
        prefix: What the official names begin with.
        qkv_bias: Whether queries, keys and values have one.
    """
    modules = {
        f'{prefix}{part}': SWIN + part for part in ('patch_embed.proj', 'patch_embed.norm', 'norm')
    }
    names: dict[str, str | tuple[str, int]] = {}
    for stage, depth in enumerate(depths):
        if stage:
            merging, own = (
                f'{prefix}layers.{stage - 1}.downsample',
                f'{SWIN}layers.{stage}.downsample',
            )
            modules[f'{merging}.norm'] = f'{own}.norm'
            names[f'{merging}.reduction.weight'] = f'{own}.reduction.weight'
        for block in range(depth):
            part = f'layers.{stage}.blocks.{block}'
            for module in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2'):
                modules[f'{prefix}{part}.{module}'] = f'{SWIN}{part}.{module}'
            table = f'{part}.attn.relative_position_bias_table'
            names[prefix + table] = SWIN + table
    names = {**leaves(modules), **names}
    return {key: own for key, own in names.items() if qkv_bias or not key.endswith('.qkv.bias')}


def without_swin_tables(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what an official Swin computes when it is built."""
    computed = ('relative_position_index', 'attn_mask')
    return {key: value for key, value in official.items() if key.rpartition('.')[2] not in computed}


def count(keys: Mapping[str, Tensor] | set[str], prefix: str) -> int:
    """Count the numbers that follow a prefix in keys such as ``prefix.3.weight``."""
    return len({key[len(prefix) :].split('.')[0] for key in keys if key.startswith(prefix)})


def stage_depths(keys: Mapping[str, Tensor] | set[str], prefix: str = '') -> list[int]:
    """Count the blocks of each stage of a Swin, ``layers.S.blocks.I``; a ViT has no stage.

    Args:
        keys: Official names, or some of them.
        prefix: What they begin with.
    """
    stages = range(count(keys, f'{prefix}layers.'))
    return [count(keys, f'{prefix}layers.{stage}.blocks.') for stage in stages]


def block_index(block: str, depths: Sequence[int]) -> int:
    """Return the number in the whole trunk of ``blocks.I`` or, in a Swin, ``layers.S.blocks.I``."""
    parts = block.split('.')
    before = depths[: int(parts[1])] if parts[0] == 'layers' else []
    return sum(before) + int(parts[-1])
