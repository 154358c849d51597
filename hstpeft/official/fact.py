"""Names of official FacT checkpoints (JieShibo/PETL-ViT): timm's, and the factors.

The official code saves only what was trained: the factors and the head.
"""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.official.common import Names, count, leaves, split_trained, untranslate

_FACTORS = 'backbone.tuner.factors.'


def fact_names(depth: int, is_tucker: bool) -> Names:
    """Pair the official names of what is trained with ours.

    Args:
        depth: Blocks of the trunk.
        is_tucker: Whether it is FacT-TK.
    """
    names: dict[str, str | tuple[str, int]] = {
        **leaves({'head': 'head.fc'}),
        'FacTu.weight': f'{_FACTORS}down.weight',
        'FacTv.weight': f'{_FACTORS}up.weight',
    }
    if is_tucker:
        return {**names, 'FacTc': f'{_FACTORS}slices', 'FacTp': f'{_FACTORS}mixing'}
    for index in range(depth):
        block, cores = f'blocks.{index}', f'{_FACTORS}cores.{index}'
        for third, part in enumerate('qkv'):
            names[f'{block}.attn.{part}_FacTs.weight'] = (f'{cores}.qkv.weight', third)
        for place in ('attn.proj', 'mlp.fc1', 'mlp.fc2'):
            name = place.partition('.')[2]
            names[f'{block}.{place}_FacTs.weight'] = f'{cores}.{name}.weight'
    return names


def split_fact(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official FacT checkpoint, or model.

    Returns:
        The trunk by timm's names, which a checkpoint does not have, and the rest by our names.
    """
    names = fact_names(count(official, 'blocks.'), 'FacTc' in official)
    return split_trained(official, names, 'FacT')


def join_fact(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make an official FacT checkpoint; the inverse of `split_fact` but for the trunk.

    Args:
        trunk: Not used: the official code does not save it.
        state: State dict of the classifier.
    """
    names = fact_names(count(state, f'{_FACTORS}cores.'), f'{_FACTORS}slices' in state)
    return untranslate(state, names)
