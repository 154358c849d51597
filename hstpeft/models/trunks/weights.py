"""Foreign trunk checkpoints, translated to timm's names. Everything about old files is here.

Shapes: C trunk width, K heads, D width of a head.
"""

import argparse
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hstpeft.delta.reading import check_archive, open_source, read_torch
from hstpeft.errors import UserError
from hstpeft.models.trunks.dinov3_names import from_official_dinov3
from hstpeft.models.trunks.hub import check_trunk, download_weights

FILE_TYPES = ('.npz', '.pth', '.pt', '.bin', '.safetensors')
DROPPED = (
    'head', 'head_dist', 'pre_logits', 'mask_token', 'decoder_embed', 'decoder_pos_embed',
    'decoder_blocks', 'decoder_norm', 'decoder_pred', 'attn_pool',
)  # fmt: skip
"""First parts of the names that a trunk knowingly leaves out: classifiers, MAE's decoder, pooling."""


def read_weights(
    source: str | Mapping[str, Tensor], arch: str, kept: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read trunk weights from a file, a timm tag or a dict.

    Args:
        source: A file of one of `FILE_TYPES`, a tag of ``arch`` in timm, or tensors by timm name.
        arch: timm model that a tag belongs to.
        kept: First parts of names that this trunk does not leave out, of `DROPPED`.

    Returns:
        Tensors by timm name, without what is `DROPPED`.

    Raises:
        UserError: The file is missing or damaged, the tag unknown, or nothing could be downloaded.
    """
    if isinstance(source, Mapping):
        raw = {key: torch.as_tensor(value) for key, value in source.items()}
    elif Path(source).suffix in FILE_TYPES:
        raw = _read_file(Path(source).expanduser())
    else:
        raw = download_weights(arch, str(source), FILE_TYPES)
        check_trunk(arch, str(source), _without_head(raw))
    tensors = _without_head(raw, kept)
    if 'layers.0.downsample.norm.weight' in tensors:
        return _from_official_swin(tensors)
    return from_official_dinov3(tensors) if 'storage_tokens' in tensors else tensors


def _without_head(raw: Mapping[str, Tensor], kept: Collection[str] = ()) -> dict[str, Tensor]:
    dropped = {*DROPPED}.difference(kept)
    return {key: value for key, value in raw.items() if key.split('.')[0] not in dropped}


def _read_file(path: Path) -> dict[str, Tensor]:
    what = f'trunk.weights {path}'
    if not path.is_file():
        raise UserError(f'{what} does not exist: download it or fix the path')
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        with open_source(path, what) as file:
            if path.suffix == '.npz':
                return _from_jax(file)
            # MAE and DeiT files carry their command line; a Namespace is plain data.
            return _unwrap(read_torch(file, what, [argparse.Namespace]))
    except UserError:
        raise
    except Exception as error:  # a damaged header, zip or array raises one of a dozen types
        reason = str(error).split('\n')[0][:200]
        raise UserError(f'{what} cannot be read: {reason}') from error


def _unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Take the tensors out of the containers that MAE, DeiT and timm use."""
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(value, Tensor) for value in checkpoint.values()
    ):
        raise TypeError('it is no dict of tensors')
    return {key.removeprefix('module.'): value for key, value in checkpoint.items()}


_SWIN_MERGING = re.compile(r'layers\.(\d+)\.downsample\.(.+)')
_SWIN_TABLES = ('relative_position_index', 'attn_mask')


def _from_official_swin(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate Microsoft's Swin: its patch merging ends a stage, timm's begins the next one."""
    tensors = {}
    for key, value in raw.items():
        merging = _SWIN_MERGING.fullmatch(key)
        if merging:
            key = f'layers.{int(merging[1]) + 1}.downsample.{merging[2]}'
        if key.rpartition('.')[2] not in _SWIN_TABLES:
            tensors[key] = value
    return tensors


# Names inside a block of Google's checkpoints; the numbers differ between the original release
# and AugReg (0, 1, 2, 3) and big_vision (0, 0, 1, 0).
_JAX_BLOCK = re.compile(r'Transformer/encoderblock_(\d+)/(.+)')
_JAX_PARTS = {
    'LayerNorm_0': 'norm1',
    'LayerNorm_1': 'norm2',
    'LayerNorm_2': 'norm2',
    'MlpBlock_0/Dense_0': 'mlp.fc1',
    'MlpBlock_0/Dense_1': 'mlp.fc2',
    'MlpBlock_3/Dense_0': 'mlp.fc1',
    'MlpBlock_3/Dense_1': 'mlp.fc2',
    'MultiHeadDotProductAttention_0/out': 'attn.proj',
    'MultiHeadDotProductAttention_1/out': 'attn.proj',
}
_JAX_QKV = re.compile(r'MultiHeadDotProductAttention_[01]/(query|key|value)/(kernel|bias)')
_JAX_TOP = {
    'cls': 'cls_token',
    'embedding/kernel': 'patch_embed.proj.weight',
    'embedding/bias': 'patch_embed.proj.bias',
    'pos_embedding': 'pos_embed',
    'Transformer/posembed_input/pos_embedding': 'pos_embed',
    'Transformer/encoder_norm/scale': 'norm.weight',
    'Transformer/encoder_norm/bias': 'norm.bias',
}
_JAX_LEAF = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}


def _from_jax(file: BinaryIO) -> dict[str, Tensor]:
    """Translate Google's ``.npz``: kernels are (in, out), attention kernels have head axes."""
    check_archive(file, stored=False)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        raw = {
            key.removeprefix('opt/target/').removeprefix('params/'): arrays[key] for key in arrays
        }
    tensors: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for key, array in raw.items():
        block = _JAX_BLOCK.fullmatch(key)
        if block is None:
            name = _JAX_TOP.get(key, key.replace('/', '.'))
            tensors[name] = _torch_layout(name, array)
            continue
        index, inner = block.groups()
        projection = _JAX_QKV.fullmatch(inner)
        if projection:
            part, leaf = projection.groups()
            name = f'blocks.{index}.attn.qkv.{_JAX_LEAF[leaf]}'
            # (C, K, D) -> (K * D, C); a bias (K, D) -> (K * D)
            flat = array.reshape(array.shape[0], -1).T if leaf == 'kernel' else array.reshape(-1)
            qkv.setdefault(name, {})[part] = torch.from_numpy(np.ascontiguousarray(flat))
            continue
        part, _, leaf = inner.rpartition('/')
        name = f'blocks.{index}.{_JAX_PARTS.get(part, part)}.{_JAX_LEAF.get(leaf, leaf)}'
        tensors[name] = _torch_layout(name, array)
    for name, parts in qkv.items():
        tensors[name] = torch.cat([parts[part] for part in ('query', 'key', 'value')])
    return tensors


def _torch_layout(name: str, array: np.ndarray) -> Tensor:
    """Turn one array: (h, w, in, out) convolutions, (in, out) and (K, D, C) kernels, vectors."""
    if name == 'patch_embed.proj.weight':
        array = array.transpose(3, 2, 0, 1)
    elif name.endswith('attn.proj.weight'):
        array = array.reshape(-1, array.shape[-1]).T
    elif name.endswith('.weight') and array.ndim == 2:
        array = array.T
    return torch.from_numpy(np.ascontiguousarray(array))
