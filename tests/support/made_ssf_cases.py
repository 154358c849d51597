"""Reference cases of SSF that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import ssf
from tests.support.made_cases import Made, image_size, name_stages, name_tokens, write

VIT = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=2.0, qkv_bias=True,
    scales_around=1, dropout=0.0,
)  # fmt: skip
SWIN = dict(
    width=16, depths=(2, 2), heads=(2, 4), window=4, size=(32, 32), patch=2, classes=4,
    mlp_ratio=2.0, qkv_bias=True, scales_around=1, drop_path=0.0,
)  # fmt: skip


def write_vit_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a ViT; ``common`` goes to `write`."""
    o = {**VIT, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = ssf.ssf_vit_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['mlp_ratio'], o['qkv_bias']
    )
    arguments = {
        'model': "VisionTransformer (models/vision_transformer.py), tuning_mode 'ssf'",
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
    return write(folder, made(o, arguments, shapes, name_tokens), o['size'], **common)


def write_swin_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a Swin; ``common`` goes to `write`."""
    o = {**SWIN, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = ssf.ssf_swin_shapes(
        o['width'], o['depths'], o['heads'], grid, o['patch'], o['window'], o['classes'],
        o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': "SwinTransformer (models/swin_transformer.py), tuning_mode 'ssf'",
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': o['qkv_bias'],
        'drop path': o['drop_path'],
    }
    return write(folder, made(o, arguments, shapes, name_stages), o['size'], **common)


def made(o: dict[str, Any], arguments: dict[str, Any], shapes: dict, name_outputs) -> Made:
    """Put a case together."""
    options = ssf.SSFOptions(o['heads'], o.get('window', 0))
    scales = [key for key in shapes if 'ssf_scale_' in key and o['scales_around']]
    return Made(
        'ssf', arguments, shapes, lambda weights: ssf.LiteralSSF(weights, options),
        ssf.is_trainable, name_outputs, {key: f'{key}.weight' for key in scales},
    )  # fmt: skip
