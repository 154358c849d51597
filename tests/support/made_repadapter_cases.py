"""Reference cases of RepAdapter that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import repadapter
from tests.support.made_cases import Made, image_size, name_stages, name_tokens, write

OWN = dict(method='repblock', adapter_dims=6, groups=2, scale=0.5)
VIT = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=2.0, qkv_bias=True,
    dropout=0.0, **OWN,
)  # fmt: skip
SWIN = dict(
    width=16, depths=(2, 2), heads=(2, 4), window=4, size=(32, 32), patch=2, classes=4,
    mlp_ratio=2.0, qkv_bias=True, drop_path=0.0, **OWN,
)  # fmt: skip


def write_vit_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a ViT; ``common`` goes to `write`."""
    o = {**VIT, **options}
    shapes = repadapter.repadapter_vit_shapes(
        o['width'], o['depth'], grid(o), o['patch'], o['classes'], o['adapter_dims'], o['groups'],
        o['method'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': 'timm VisionTransformer with set_RepAdapter (repadapter.py)',
        'hidden size': o['width'],
        'layers': o['depth'],
        'heads': o['heads'],
        'all dropout': o['dropout'],
    }
    return write(folder, made(o, arguments, shapes, name_tokens), o['size'], **common)


def write_swin_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a Swin; ``common`` goes to `write`."""
    o = {**SWIN, **options}
    shapes = repadapter.repadapter_swin_shapes(
        o['width'], o['depths'], o['heads'], grid(o), o['patch'], o['window'], o['classes'],
        o['adapter_dims'], o['groups'], o['method'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': 'timm SwinTransformer with set_RepAdapter (repadapter.py)',
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'drop path': o['drop_path'],
    }
    return write(folder, made(o, arguments, shapes, name_stages), o['size'], **common)


def grid(o: dict[str, Any]) -> tuple[int, ...]:
    """Return the patches along each side."""
    return tuple(n // o['patch'] for n in o['size'])


def made(o: dict[str, Any], arguments: dict[str, Any], shapes: dict, name_outputs) -> Made:
    """Put a case together."""
    shared = {
        'method': o['method'],
        'dim': o['adapter_dims'],
        'scale': o['scale'],
        'groups': o['groups'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': o['qkv_bias'],
    }
    options = repadapter.RepAdapterOptions(o['heads'], o['scale'], o.get('window', 0))
    return Made(
        'repadapter', {**arguments, **shared}, shapes,
        lambda weights: repadapter.LiteralRepAdapter(weights, options),
        repadapter.is_trainable, name_outputs,
    )  # fmt: skip
