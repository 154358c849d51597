"""Reference cases of AdaptFormer that nobody computed before, of any size and option."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hstpeft.oracle.literal import adaptformer
from tests.support.made_cases import Made, image_size, name_tokens, write

DEFAULTS = dict(
    width=32, depth=3, heads=2, size=(32, 32), patch=8, classes=4, mlp_ratio=2.0, adapter_dims=5,
    form='parallel', scale='0.1', norm='none', global_pool=False, prompts=0, dropout=0.0,
    qkv_bias=True,
)  # fmt: skip


def write_case(folder: Path, options: dict[str, Any], **common: Any) -> Path:
    """Write a case; ``common`` goes to `write`."""
    o = {**DEFAULTS, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    is_learned = o['scale'] == 'learnable_scalar'
    shapes = adaptformer.adaptformer_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['adapter_dims'], o['mlp_ratio'],
        o['norm'], is_learned, o['global_pool'], o['prompts'], o['qkv_bias'],
    )  # fmt: skip
    arguments = {
        'model': 'VisionTransformer (models/vit_image.py)',
        'hidden size': o['width'],
        'layers': o['depth'],
        'heads': o['heads'],
        'mlp ratio': o['mlp_ratio'],
        'image size': image_size(o['size']),
        'patch size': o['patch'],
        'classes': o['classes'],
        'ffn_num': o['adapter_dims'],
        'ffn_option': o['form'],
        'ffn_adapter_scalar': o['scale'],
        'ffn_adapter_layernorm_option': o['norm'],
        'global_pool': o['global_pool'],
        'vpt_num': o['prompts'],
        'all dropout': o['dropout'],
        'qkv bias': o['qkv_bias'],
    }
    scale = 1.0 if is_learned else float(o['scale'])
    literal = adaptformer.AdaptFormerOptions(o['heads'], o['form'], scale, o['norm'])

    def name_outputs(outputs: list[Tensor]) -> dict[str, Tensor]:
        """Name the arrays; what is averaged has no normed tokens."""
        return {'layer0': outputs[0]} if o['global_pool'] else name_tokens(outputs)

    made = Made(
        'adaptformer', arguments, shapes,
        lambda weights: adaptformer.LiteralAdaptFormer(weights, literal),
        adaptformer.is_trainable, name_outputs,
    )  # fmt: skip
    return write(folder, made, o['size'], **common)
