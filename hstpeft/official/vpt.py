"""Names of official VPT checkpoints (KMnP/vpt)."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.official.common import (
    SWIN,
    TRUNK,
    TUNER,
    Names,
    count,
    leaves,
    split_trunk,
    swin_names,
    translate,
    without_swin_tables,
)

_VIT, _STAGES = 'enc.transformer.', 'enc.'


def vpt_vit_names(depth: int) -> Names:
    """Pair the names of the trunk of an official VPT on a ViT, and of its head, with ours."""
    modules = {
        f'{_VIT}embeddings.patch_embeddings': f'{TRUNK}patch_embed.proj',
        f'{_VIT}encoder.encoder_norm': f'{TRUNK}norm',
        'head.last_layer': 'head.fc',
    }
    for index in range(depth):
        layer, block = f'{_VIT}encoder.layer.{index}', f'{TRUNK}blocks.{index}'
        for third, part in enumerate(('query', 'key', 'value')):
            modules[f'{layer}.attn.{part}'] = (f'{block}.attn.qkv', third)
        modules[f'{layer}.attn.out'] = f'{block}.attn.proj'
        modules[f'{layer}.ffn.fc1'] = f'{block}.mlp.fc1'
        modules[f'{layer}.ffn.fc2'] = f'{block}.mlp.fc2'
        modules[f'{layer}.attention_norm'] = f'{block}.norm1'
        modules[f'{layer}.ffn_norm'] = f'{block}.norm2'
    return {
        **leaves(modules),
        f'{_VIT}embeddings.cls_token': f'{TRUNK}cls_token',
        f'{_VIT}embeddings.position_embeddings': f'{TRUNK}pos_embed',
    }


def prompt_rows(official: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Name, for each official tensor of prompts, our tensor of each of its rows in order.

    Officially the deep prompts of a stage (a ViT is one) are rows of one tensor.
    """
    prefix = _VIT if f'{_VIT}prompt_embeddings' in official else _STAGES
    deep = f'{prefix}deep_prompt_embeddings'
    keys = [f'{prefix}prompt_embeddings', deep, *(f'{deep}_{stage}' for stage in range(4))]
    rows, index = {}, 0
    for key in (key for key in keys if key in official):
        rows[key] = [f'{TUNER}prompts.{index + row}' for row in range(len(official[key]))]
        index += len(official[key])
    return rows


def split_vpt(
    official: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], Names]:
    """Split an official VPT checkpoint, ViT or Swin.

    Returns:
        The trunk by timm's names, the rest by our names, and official names with ours but for
        the prompts (see `prompt_rows`).
    """
    kept = without_swin_tables(official)
    rows = prompt_rows(kept)
    prompts = {
        name: kept[key][row : row + 1]
        for key, names in rows.items()
        for row, name in enumerate(names)
    }
    if f'{_VIT}prompt_embeddings' in kept:
        names = dict(vpt_vit_names(count(kept, f'{_VIT}encoder.layer.')))
        net = TRUNK
    else:
        depths = [
            count(kept, f'{_STAGES}layers.{s}.blocks.')
            for s in range(count(kept, f'{_STAGES}layers.'))
        ]
        has_bias = f'{_STAGES}layers.0.blocks.0.attn.qkv.bias' in kept
        names = swin_names(tuple(depths), _STAGES, has_bias)
        names |= leaves({'head.last_layer': 'head.fc'})
        net = SWIN
    if f'{_VIT}prompt_proj.weight' in kept:
        names |= leaves({f'{_VIT}prompt_proj': f'{TUNER}proj'})
    rest = {key: value for key, value in kept.items() if key not in rows}
    trunk, delta = split_trunk(translate(rest, names, 'VPT'), net)
    return trunk, {**delta, **prompts}, names
