"""Reference cases of Adapter+ and its kin that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import adapter_plus
from tests.support.made_cases import Made, image_size, name_tokens, write

DEFAULTS = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=2.0, qkv_bias=True,
    adapter_dims=5, form='post', scaling='channel', norm=False, act=True, bias=True,
    attn_adapter=None, train_ln=False, layer_scale=False, scales_around=1, dropout=0.0,
)  # fmt: skip


def write_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case; ``common`` goes to `write`."""
    o = {**DEFAULTS, **options}
    is_houlsby = o['form'] == 'houlsby'
    attn_adapter = is_houlsby if o['attn_adapter'] is None else o['attn_adapter']
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = adapter_plus.adapter_plus_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['adapter_dims'], o['mlp_ratio'],
        o['qkv_bias'], attn_adapter, o['scaling'], o['norm'], o['bias'], o['layer_scale'],
    )  # fmt: skip
    arguments = {
        'model': 'timm VisionTransformer with AdapterBlock (adapter_plus/vit_adapter.py)',
        'config': o['form'],
        'dim': o['adapter_dims'],
        'scaling': o['scaling'],
        'norm_layer': o['norm'],
        'act_layer': o['act'],
        'bias': o['bias'],
        'attn_adapter': attn_adapter,
        'train_ln': o['train_ln'],
        'layer scale': o['layer_scale'],
        'hidden size': o['width'],
        'layers': o['depth'],
        'heads': o['heads'],
        'mlp ratio': o['mlp_ratio'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'qkv bias': o['qkv_bias'],
        'all dropout': o['dropout'],
    }
    scale = 1.0 if isinstance(o['scaling'], str) else o['scaling']
    literal = adapter_plus.AdapterPlusOptions(o['heads'], o['form'], scale, o['act'], o['train_ln'])
    scales = [key for key in shapes if key.endswith(('.scaling', '.gamma'))]
    made = Made(
        'adapter_plus', arguments, shapes,
        lambda weights: adapter_plus.LiteralAdapterPlus(weights, literal),
        lambda name: adapter_plus.is_trainable(name, o['train_ln']), name_tokens,
        {key: f'{key}.weight' for key in scales} if o['scales_around'] else {},
    )  # fmt: skip
    return write(folder, made, o['size'], **common)
