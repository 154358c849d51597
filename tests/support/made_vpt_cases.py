"""Reference cases of VPT that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from hstpeft.oracle.literal import vpt
from tests.support.made_cases import Made, image_size, name_stages, name_tokens, write

VIT = dict(
    width=32, depth=3, heads=2, mlp=48, size=(32, 32), patch=8, classes=4, tokens=3, deep=True,
    project=-1, prompt_dropout=0.0, dropout=0.0,
)  # fmt: skip
SWIN = dict(
    width=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=4, size=(64, 64), patch=2, classes=4,
    mlp_ratio=2.0, qkv_bias=True, tokens=3, deep=True, project=-1, prompt_dropout=0.0,
    drop_path=0.0,
)  # fmt: skip


def write_vit_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a ViT; ``common`` goes to `write`."""
    o = {**VIT, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = vpt.vpt_vit_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['mlp'], o['tokens'], o['deep'],
        o['project'],
    )  # fmt: skip
    arguments = {
        'model': 'ViT (src/models/vit_models.py) with PromptedVisionTransformer '
        '(src/models/vit_prompt/vit.py)',
        **shared(o),
        'hidden size': o['width'],
        'heads': o['heads'],
        'layers': o['depth'],
        'mlp size': o['mlp'],
        'all dropout': o['dropout'],
    }
    return write(folder, made(o, arguments, shapes, name_tokens), o['size'], **common)


def write_swin_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case on a Swin, whose batch is one image; ``common`` goes to `write`."""
    o = {**SWIN, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = vpt.vpt_swin_shapes(
        o['width'], o['depths'], o['heads'], grid, o['patch'], o['window'], o['classes'],
        o['tokens'], o['deep'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': 'Swin (src/models/vit_models.py) with PromptedSwinTransformer '
        '(src/models/vit_prompt/swin_transformer.py)',
        **shared(o),
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': o['qkv_bias'],
        'drop path': o['drop_path'],
    }
    common = {'labels': (2,), **common}
    return write(folder, made(o, arguments, shapes, name_stages), o['size'], **common)


def shared(o: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of both families."""
    return {
        'transfer type': 'prompt',
        'location': 'prepend',
        'NUM_TOKENS': o['tokens'],
        'DEEP': o['deep'],
        'PROJECT': o['project'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'head hidden layers': 0,
        'prompt dropout': o['prompt_dropout'],
    }


def made(o: dict[str, Any], arguments: dict[str, Any], shapes: dict, name_outputs) -> Made:
    """Put a case together."""
    options = vpt.VPTOptions(o['heads'], o.get('window', 0))
    return Made(
        'vpt', arguments, shapes, lambda weights: vpt.LiteralVPT(weights, options),
        vpt.is_trainable, name_outputs,
    )  # fmt: skip
