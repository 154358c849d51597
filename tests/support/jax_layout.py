"""Re-arranges a timm ViT state dict into the layouts of Google's ``.npz`` files."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

RELEASE = dict(norm2='LayerNorm_2', mlp='MlpBlock_3', attn='MultiHeadDotProductAttention_1')
BIG_VISION = dict(norm2='LayerNorm_1', mlp='MlpBlock_0', attn='MultiHeadDotProductAttention_0')
# layout -> (prefix, names inside a block, name of the position embedding)
LAYOUTS = {
    'release': ('', RELEASE, 'Transformer/posembed_input/pos_embedding'),
    'optimizer': ('opt/target/', RELEASE, 'Transformer/posembed_input/pos_embedding'),
    'big_vision': ('params/', BIG_VISION, 'pos_embedding'),
}


def to_jax(state: Mapping[str, Tensor], num_heads: int, layout: str) -> dict[str, np.ndarray]:
    """Rename and transpose: kernels (in, out), attention kernels with head axes (K, D)."""
    prefix, parts, position = LAYOUTS[layout]
    state = {key: value.numpy() for key, value in state.items()}
    depth = sum(key.endswith('attn.qkv.weight') for key in state)
    out = {
        'cls': state['cls_token'],
        position: state['pos_embed'],
        'embedding/kernel': state['patch_embed.proj.weight'].transpose(2, 3, 1, 0),
        'embedding/bias': state['patch_embed.proj.bias'],
        'Transformer/encoder_norm/scale': state['norm.weight'],
        'Transformer/encoder_norm/bias': state['norm.bias'],
        'head/kernel': np.ones((state['norm.bias'].size, 3), np.float32),
        'head/bias': np.ones(3, np.float32),
        'pre_logits/kernel': np.ones((2, 2), np.float32),
        'pre_logits/bias': np.ones(2, np.float32),
    }
    for i in range(depth):
        own, block = f'blocks.{i}', f'Transformer/encoderblock_{i}'
        for norm, name in (('norm1', 'LayerNorm_0'), ('norm2', parts['norm2'])):
            out[f'{block}/{name}/scale'] = state[f'{own}.{norm}.weight']
            out[f'{block}/{name}/bias'] = state[f'{own}.{norm}.bias']
        for dense, name in (('fc1', 'Dense_0'), ('fc2', 'Dense_1')):
            out[f'{block}/{parts["mlp"]}/{name}/kernel'] = state[f'{own}.mlp.{dense}.weight'].T
            out[f'{block}/{parts["mlp"]}/{name}/bias'] = state[f'{own}.mlp.{dense}.bias']
        weights = np.split(state[f'{own}.attn.qkv.weight'], 3)
        biases = np.split(state[f'{own}.attn.qkv.bias'], 3)
        for name, weight, bias in zip(('query', 'key', 'value'), weights, biases, strict=True):
            width = weight.shape[1]
            out[f'{block}/{parts["attn"]}/{name}/kernel'] = weight.T.reshape(width, num_heads, -1)
            out[f'{block}/{parts["attn"]}/{name}/bias'] = bias.reshape(num_heads, -1)
        projection = state[f'{own}.attn.proj.weight']
        kernel = projection.T.reshape(num_heads, -1, projection.shape[0])
        out[f'{block}/{parts["attn"]}/out/kernel'] = kernel
        out[f'{block}/{parts["attn"]}/out/bias'] = state[f'{own}.attn.proj.bias']
    return {f'{prefix}{key}': value for key, value in out.items()}
