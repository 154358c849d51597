"""Reference cases of Mona that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import mona
from tests.support.made_cases import Made, image_size, name_stages, write

DEFAULTS = dict(
    width=16, depths=(1, 2), heads=(2, 4), window=2, size=(16, 16), patch=2, classes=4,
    mlp_ratio=2.0, qkv_bias=True, adapter_dims=6, drop_path=0.0,
)  # fmt: skip


def write_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case; ``common`` goes to `write`."""
    o = {**DEFAULTS, **options}
    shapes = mona.mona_shapes(
        o['width'], o['depths'], o['heads'], o['patch'], o['window'], o['classes'],
        o['adapter_dims'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': 'SwinTransformer_mona (mmcls/models/backbones/swin_transformer_mona.py), global '
        'average pooling, LinearClsHead',
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': o['qkv_bias'],
        'bottleneck': o['adapter_dims'],
        'drop path': o['drop_path'],
    }
    options_of = mona.MonaOptions(o['window'])
    made = Made(
        'mona', arguments, shapes, lambda weights: mona.LiteralMona(weights, options_of),
        mona.is_trainable, name_stages,
        {key: f'{key}.weight' for key in shapes if key.endswith('.gammax')},
    )  # fmt: skip
    return write(folder, made, o['size'], **common)
