"""Trunk weights of timm's tags, from the Hugging Face hub, checked before they are used."""

from pathlib import Path

import timm
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError, nearest
from hstpeft.fetch import sha256_of

FINGERPRINTS = {
    'vit_tiny_patch16_224.augreg_in21k_ft_in1k': (
        '8cffac723c9642736a5586cb5ffe4975209551839806f4457f1852b0fce28260'
    ),
}
"""Known `delta.fingerprint` of trunks without classifier, by timm's name; others are not compared."""
# timm takes the first of them that a repository has.
_FILES = ('model.safetensors', 'pytorch_model.bin')


def download_weights(arch: str, tag: str, file_types: tuple[str, ...]) -> dict[str, Tensor]:
    """Fetch the weights of a timm tag, or take those in the hub's cache.

    Args:
        arch: timm model.
        tag: One of its pre-trained tags.
        file_types: Suffixes of files that could have been meant instead of a tag.

    Returns:
        Tensors by timm name, with the classifier.

    Raises:
        UserError: The tag is unknown, nothing could be downloaded, or what came is damaged.
    """
    name = f'{arch}.{tag}'
    if not timm.models.is_model_pretrained(name):
        tags = [known.split('.', 1)[1] for known in timm.list_pretrained(f'{arch}.*')]
        raise UserError(
            f'trunk.weights {tag!r} is neither a file ({", ".join(file_types)}) nor a timm tag of '
            f'{arch}: {nearest(tag, tags)}'
        )
    try:
        state = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # hub, requests and socket errors share no base class
        _check_cache(name)  # if a file is damaged, this is the better error
        reason = str(error).split('\n')[0][:200]
        raise UserError(
            f'trunk.weights {name} cannot be downloaded ({type(error).__name__}: {reason}): check '
            'the network, or give a local file'
        ) from error
    _check_cache(name)
    return state


def check_trunk(arch: str, tag: str, tensors: dict[str, Tensor]) -> None:
    """Compare the fingerprint of downloaded trunk weights with the known one, if there is one.

    Raises:
        UserError: They are others; both fingerprints are named.
    """
    expected = FINGERPRINTS.get(f'{arch}.{tag}')
    if expected is not None and expected != (found := fingerprint(tensors)):
        raise UserError(
            f'trunk.weights {arch}.{tag} are not the weights that are known under this name: their '
            f'fingerprint is {found}, not {expected}. Give a file that you trust as trunk.weights'
        )


def _check_cache(name: str) -> None:
    """Compare the files of a model in the hub's cache with the sha256 by which it names them.

    Raises:
        UserError: One is damaged; it is deleted.
    """
    repository, _, revision = (timm.get_pretrained_cfg(name).hf_hub_id or '').partition('@')
    for file in _FILES if repository else ():
        path = try_to_load_from_cache(repository, file, revision=revision or None)
        if not isinstance(path, str):
            continue
        blob = Path(path).resolve()
        # Files that are not in the hub's large storage are named otherwise; they hold no weights.
        if len(blob.name) == 64 and blob.name != (found := sha256_of(blob)):
            blob.unlink()
            raise UserError(
                f'trunk.weights {name}: {file} in the cache of the hub is damaged and was deleted: '
                f'its sha256 is {found}, not {blob.name}. Run again to download it anew'
            )
