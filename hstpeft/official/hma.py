"""Names of official HMA checkpoints (``ViT/src/HMA/model.py`` of qiuzh20/HMA), and ours."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import TRUNK, leaves

_BLOCKS = {'local_read_block.mab': 'head.local_read', 'ABD_block.mab': 'head.batch_read'}
_PARTS = {
    'fc_q': 'query',
    'fc_k': 'key',
    'fc_v': 'value',
    'ln0': 'query_norm',
    'ln0KV': 'key_norm',
    'ln1': 'mlp_norm',
    'rff.0': 'mlp.0',
}
_SINGLE = {
    'label_embeddings.weight': 'head.label_embeddings.weight',
    'global_memories': 'head.global_memories',
    'queue': 'head.queue.rows',
    'queue_ptr': 'head.queue.pointer',
}
# Our encoder -> the prefix of the official one.
ENCODERS = {'backbone.': 'encoder.', 'momentum_backbone.': 'momen_encoder.'}
_TOKENS = 'tuner.memory_tokens.'


def hma_names(keys: Collection[str], dropout: bool = True) -> dict[str, str]:
    """Pair the names of official HMA with ours, encoders left out.

    Args:
        keys: The official keys, or ours: what is not in them is left out of the pairs.
        dropout: Whether the blocks have dropout, which moves the number of the second Linear of
            their MLPs: ``rff.3`` with it, ``rff.2`` without.

    Returns:
        Official name -> name in a classifier with `HMAClsHead`.
    """
    modules = {'fc': 'head.fc'}
    names = dict(_SINGLE)
    for official, own in _BLOCKS.items():
        modules.update({f'{official}.{part}': f'{own}.{ours}' for part, ours in _PARTS.items()})
        modules[f'{official}.rff.{3 if dropout else 2}'] = f'{own}.mlp.3'
        names[f'{official}.null_k'] = f'{own}.null_key'
    names.update(leaves(modules))
    return {official: own for official, own in names.items() if official in keys or own in keys}


def split_hma(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official HMA checkpoint.

    The encoders' own classifiers (``encoder.head``) influence nothing; they are left out. Which
    classes the rows of the queue have is not known to the official code: they become -1.

    Returns:
        The encoder's trunk by timm's names, and the rest by our names; a momentum encoder under
        ``momentum_backbone.``, whole.

    Raises:
        UserError: There are names that official HMA does not have, or it has no head.
    """
    encoders = tuple(ENCODERS.values())
    rest = {key: value for key, value in official.items() if not key.startswith(encoders)}
    dropout = not any(f'{block}.rff.2.weight' in rest for block in _BLOCKS)
    if not any(f'{block}.fc_q.weight' in rest for block in _BLOCKS):
        rest.pop('label_embeddings.weight', None)  # read by nobody then
    names = hma_names(rest, dropout)
    missing, extra = sorted({'fc.weight', 'fc.bias'} - rest.keys()), sorted(rest.keys() - names)
    if missing or extra:
        raise UserError(f'not an official HMA checkpoint: missing {missing}, left over {extra[:6]}')
    state = {own: rest[key] for key, own in names.items()}
    for key in state:
        if key.endswith('.null_key'):
            state[key] = state[key].flatten()
    if 'queue' in rest:
        state['head.queue.labels'] = torch.full((len(rest['queue']),), -1)
    own = _encoder_parts(official)
    trunk = {key.removeprefix(TRUNK): own.pop(key) for key in list(own) if key.startswith(TRUNK)}
    return trunk, {**own, **state}


def join_hma(
    encoders: Mapping[str, Tensor], state: Mapping[str, Tensor], dropout: bool = True
) -> dict[str, Tensor]:
    """Make an official HMA checkpoint; the inverse of `split_hma`.

    Args:
        encoders: Trunk (and memory tokens) of the encoder and, if there is one, of its momentum
            copy, by our names and whole.
        state: State dict of the classifier.
        dropout: Whether the blocks have dropout.

    Raises:
        UserError: ``state`` has no HMA head.
    """
    names = hma_names([key for key in state if key.startswith('head.')], dropout)
    if 'label_embeddings.weight' not in names:
        raise UserError(
            'this delta has no HMA head with a memory or batch attention: there is no official '
            'HMA form of it'
        )
    official = {key: state[own] for key, own in names.items()}
    for key in official:
        if key.endswith('.null_k'):
            official[key] = official[key][None, None]
    return {**{_official_key(key): value for key, value in encoders.items()}, **official}


def _encoder_parts(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Collect what belongs to encoders, by our names, their classifiers left out."""
    own = {}
    for ours, prefix in ENCODERS.items():
        for key, value in official.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or name.split('.')[0] == 'head':
                continue
            block = name.removeprefix('blocks.').removesuffix('.added_mem')
            own[ours + (_TOKENS + block if block.isdigit() else f'trunk.vit.{name}')] = value
    return own


def _official_key(own: str) -> str:
    prefix = next(prefix for prefix in ENCODERS if own.startswith(prefix))
    name = own.removeprefix(prefix)
    if name.startswith(_TOKENS):
        return f'{ENCODERS[prefix]}blocks.{name.removeprefix(_TOKENS)}.added_mem'
    return ENCODERS[prefix] + name.removeprefix('trunk.vit.')
