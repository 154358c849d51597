"""Names of official HST checkpoints (AFeng-x/HST), and ours."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from hstpeft.errors import UserError

_SIDE = 'backbone.tuner.side.stages'
_BLOCK_PARTS = {
    'norm1': 'norm1',
    'attn.q': 'attn.q',
    'attn.k': 'attn.k',
    'attn.v': 'attn.v',
    'attn.proj': 'attn.proj',
    'norm2': 'norm2',
    'mlp.fc1': 'mlp.0',
    'mlp.fc2': 'mlp.2',
}


def hst_depths(keys: Iterable[str]) -> tuple[int, ...]:
    """Read the number of side blocks of each stage off an official HST checkpoint's keys."""
    found = {match.groups() for key in keys if (match := re.match(r'm_block(\d+)\.(\d+)\.', key))}
    depths = tuple(sum(stage == str(s) for stage, _ in found) for s in range(1, 5))
    if not all(depths):
        raise UserError(
            'the checkpoint has no side blocks m_block1 to m_block4: it is not an official HST one'
        )
    return depths


def hst_names(depths: Sequence[int], qkv_bias: bool = True) -> dict[str, str]:
    """Pair the names of official HST (``models/vit_hsn.py``) with ours, trunk left out.

    Args:
        depths: Side blocks of each stage.
        qkv_bias: Whether the side attention has query, key and value biases.

    Returns:
        Official name -> name in an image classifier with `TunedBackbone`, `PooledNorm` and a
        linear head.
    """
    pairs: dict[str, str] = {}

    def add(official: str, own: str, leaves: Sequence[str] = ('weight', 'bias')) -> None:
        pairs.update({f'{official}.{leaf}': f'{own}.{leaf}' for leaf in leaves})

    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    add('m_patch_embed1.conv.0', f'{_SIDE}.0.embed.conv.0', ['weight'])
    add('m_patch_embed1.conv.1', f'{_SIDE}.0.embed.conv.1', ['weight', 'bias', *statistics])
    add('m_patch_embed1.conv.3', f'{_SIDE}.0.embed.conv.3')
    add('fc_norm', 'neck.norm', statistics)
    add('head', 'head.fc')
    trunk_block = 0
    for stage, depth in enumerate(depths):
        number, own = stage + 1, f'{_SIDE}.{stage}'
        if stage:
            add(f'm_patch_embed{number}.proj', f'{own}.embed.conv')
        add(f'm_patch_embed{number}.norm', f'{own}.embed.norm')
        add(f'm_norm{number}', f'{own}.norm')
        add(f'T_Bridge_{number}', f'{own}.bridge')
        for j in range(depth):
            for part, own_part in _BLOCK_PARTS.items():
                bias = qkv_bias or part not in ('attn.q', 'attn.k', 'attn.v')
                leaves = ('weight', 'bias') if bias else ('weight',)
                add(f'm_block{number}.{j}.{part}', f'{own}.blocks.{j}.{own_part}', leaves)
            pairs[f'm_embeddings.{trunk_block}'] = f'backbone.tuner.meta_tokens.{trunk_block}'
            trunk_block += 1
            add(f'm_proj_norm{trunk_block}', f'{own}.meta_norms.{j}')
    return pairs


def split_hst(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official HST checkpoint.

    With more trunk blocks than side blocks (ViT-L with the official default) the meta tokens and
    norms behind the last stage influence nothing; they are left out.

    Returns:
        The trunk by timm's names (with the trained norms), and the rest by our names.

    Raises:
        UserError: There are names that official HST does not have, or some are missing.
    """
    names = hst_names(hst_depths(official), 'm_block1.0.attn.q.bias' in official)
    trunk_parts = ('cls_token', 'pos_embed', 'patch_embed', 'blocks', 'norm')
    trunk = {key: value for key, value in official.items() if key.split('.')[0] in trunk_parts}
    rest = official.keys() - trunk.keys()
    unused = {key for key in rest - names.keys() if re.match(r'm_embeddings\.|m_proj_norm\d', key)}
    missing, extra = sorted(names.keys() - rest), sorted(rest - names.keys() - unused)
    if missing or extra:
        raise UserError(f'not an official HST checkpoint: missing {missing}, left over {extra}')
    return trunk, {own: official[key] for key, own in names.items()}


def join_hst(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make an official HST checkpoint; the inverse of `split_hst`.

    Args:
        trunk: All trunk tensors by timm's names, with the trained norms.
        state: State dict of the classifier.

    Raises:
        UserError: ``state`` is not that of an HST classifier with one side block a trunk block.
    """
    counts = [
        len({key.split('.')[6] for key in state if key.startswith(f'{_SIDE}.{s}.blocks.')})
        for s in range(4)
    ]
    num_meta = sum(key.startswith('backbone.tuner.meta_tokens.') for key in state)
    if not all(counts) or num_meta != sum(counts):
        raise UserError(
            'official HST pairs every trunk block with a side block: this delta, with '
            f'{sum(counts)} side blocks for {num_meta} trunk blocks, cannot be expressed'
        )
    names = hst_names(counts, f'{_SIDE}.0.blocks.0.attn.q.bias' in state)
    return {**trunk, **{official: state[own] for official, own in names.items()}}
