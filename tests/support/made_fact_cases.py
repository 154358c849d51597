"""Reference cases of FacT that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import fact
from tests.support.made_cases import Made, image_size, name_tokens, write

DEFAULTS = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=4, qkv_bias=True,
    kind='TT', rank=5, scale=1.0, dropout=0.0,
)  # fmt: skip


def write_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case; ``common`` goes to `write`."""
    o = {**DEFAULTS, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = fact.fact_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['kind'], o['rank'],
        o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': f'timm VisionTransformer with set_FacT (FacT/fact_{o["kind"].lower()}.py)',
        'kind': o['kind'],
        'rank': o['rank'],
        'scale': o['scale'],
        'hidden size': o['width'],
        'layers': o['depth'],
        'heads': o['heads'],
        'mlp ratio': float(o['mlp_ratio']),
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'qkv bias': o['qkv_bias'],
        'all dropout': o['dropout'],
    }
    literal = fact.FacTOptions(o['heads'], o['scale'])
    made = Made(
        'fact', arguments, shapes, lambda weights: fact.LiteralFacT(weights, literal),
        fact.is_trainable, name_tokens,
    )  # fmt: skip
    return write(folder, made, o['size'], **common)
