"""Names of official AdaptFormer checkpoints (ShoufaChen/AdaptFormer, images)."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.official.common import TRUNK, TUNER, Names, count, leaves, split_trunk, translate

_QKV_BIAS = 'blocks.0.attn.q_proj.bias'


def adaptformer_names(
    depth: int, norm: str, adapter_norm: str = 'none', qkv_bias: bool = True
) -> Names:
    """Pair the official names with ours.

    Args:
        depth: Blocks of the trunk.
        norm: The last norm, ``norm`` or (average pooling) ``fc_norm``.
        adapter_norm: Option of the tuner.
        qkv_bias: Whether queries, keys and values have one.
    """
    modules = {
        'patch_embed.proj': f'{TRUNK}patch_embed.proj',
        norm: TRUNK + norm,
        'head.1': 'head.fc',
    }
    names = {token: TRUNK + token for token in ('cls_token', 'pos_embed')}
    for leaf in ('running_mean', 'running_var', 'num_batches_tracked'):
        names[f'head.0.{leaf}'] = f'neck.norm.{leaf}'
    for index in range(depth):
        block, own = f'blocks.{index}', f'{TRUNK}blocks.{index}'
        for third, part in enumerate(('q_proj', 'k_proj', 'v_proj')):
            modules[f'{block}.attn.{part}'] = (f'{own}.attn.qkv', third)
        for part in ('norm1', 'norm2', 'attn.proj'):
            modules[f'{block}.{part}'] = f'{own}.{part}'
        for part in ('fc1', 'fc2'):
            modules[f'{block}.{part}'] = f'{own}.mlp.{part}'
        official, adapter = f'{block}.adaptmlp', f'{TUNER}adapters.{index}'
        modules[f'{official}.down_proj'] = f'{adapter}.down'
        modules[f'{official}.up_proj'] = f'{adapter}.up'
        if adapter_norm != 'none':
            modules[f'{official}.adapter_layer_norm_before'] = f'{adapter}.norm_{adapter_norm}'
    given = leaves(modules)
    biases = [f'blocks.{i}.attn.{part}_proj.bias' for i in range(depth) for part in 'qkv']
    for key in () if qkv_bias else biases:
        del given[key]
    return {**given, **names}


def split_adaptformer(
    official: Mapping[str, Tensor], adapter_norm: str = 'none'
) -> tuple[dict[str, Tensor], dict[str, Tensor], Names]:
    """Split an official AdaptFormer checkpoint.

    Args:
        official: Its tensors.
        adapter_norm: Where the adapters' norm is; the names do not tell ``in`` from ``out``.

    Returns:
        The trunk by timm's names, the rest by our names, and official names with ours.
    """
    depth = count(official, 'blocks.')
    norm = 'fc_norm' if 'fc_norm.weight' in official else 'norm'
    names = dict(adaptformer_names(depth, norm, adapter_norm, _QKV_BIAS in official))
    for index in range(depth):
        scale, prompt = f'blocks.{index}.adaptmlp.scale', f'embeddings.{index}'
        if scale in official:
            names[scale] = f'{TUNER}adapters.{index}.scale'
        if prompt in official:
            names[prompt] = f'{TUNER}prompts.{index}'
    trunk, rest = split_trunk(translate(official, names, 'AdaptFormer'))
    # The norm behind the pooling is trained: the trunk has it, and the delta too.
    trained = {f'{TRUNK}{key}': trunk[key] for key in trunk if key.startswith('fc_norm.')}
    return trunk, {**rest, **trained}, names
