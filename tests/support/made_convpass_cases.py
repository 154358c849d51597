"""Reference cases of Convpass that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import convpass
from tests.support.made_cases import Made, image_size, name_stages, name_tokens, write

VIT = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=2.0, qkv_bias=True,
    method='convpass', adapter_dims=5, scale=0.1, dropout=0.0,
)  # fmt: skip
SWIN = dict(
    width=16, depths=(2, 2), heads=(2, 4), window=4, size=(32, 32), patch=2, classes=4,
    mlp_ratio=2.0, qkv_bias=True, method='convpass', adapter_dims=5, scale=0.5, drop_path=0.0,
)  # fmt: skip


def write_vit_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a ViT; ``common`` goes to `write`."""
    o = {**VIT, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = convpass.convpass_vit_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['adapter_dims'], o['method'],
        o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'hidden size': o['width'],
        'layers': o['depth'],
        'all dropout': o['dropout'],
    }
    return write(folder, made(o, 'timm VisionTransformer', arguments, shapes), o['size'], **common)


def write_swin_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a Swin; ``common`` goes to `write`."""
    o = {**SWIN, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = convpass.convpass_swin_shapes(
        o['width'], o['depths'], o['heads'], grid, o['patch'], o['window'], o['classes'],
        o['adapter_dims'], o['method'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'embed width': o['width'],
        'depths': o['depths'],
        'window': o['window'],
        'drop path': o['drop_path'],
    }
    return write(folder, made(o, 'timm SwinTransformer', arguments, shapes), o['size'], **common)


def made(o: dict[str, Any], model: str, arguments: dict[str, Any], shapes: dict) -> Made:
    """Put a case together."""
    shared = {
        'model': f'{model} with set_Convpass (convpass/vtab/convpass.py)',
        'method': o['method'],
        'dim': o['adapter_dims'],
        'scale': o['scale'],
        'heads': o['heads'],
        'mlp ratio': o['mlp_ratio'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'qkv bias': o['qkv_bias'],
    }
    options = convpass.ConvpassOptions(o['heads'], o['scale'], o.get('window', 0))
    return Made(
        'convpass', {**shared, **arguments}, shapes,
        lambda weights: convpass.LiteralConvpass(weights, options),
        convpass.is_trainable, name_stages if 'depths' in o else name_tokens,
    )  # fmt: skip
