"""One name of timm: does a trunk of ours run it, and does it compute what timm computes?

Shapes: B batch, P prefix tokens, N = h * w patches, C trunk width.
"""

import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Places, Trunk
from hstpeft.models.trunks.support import Support
from hstpeft.oracle import recipe
from hstpeft.registry import MODELS

LIMIT = 1e-5
FAMILIES = {
    'vision_transformer': ('ViT', 'ViTTrunk'),
    'deit': ('ViT', 'ViTTrunk'),
    'eva': ('Eva', 'EvaTrunk'),
    'swin_transformer': ('Swin', 'SwinTrunk'),
}
"""By module of timm: a family whose names are compared, and the trunk that runs it."""
RELATIVES = {
    'beit': ('BEiT', 'ViTTrunk'),
    'hiera': ('Hiera', 'ViTTrunk'),
    'hieradet_sam2': ('SAM 2', 'ViTTrunk'),
    'naflexvit': ('NaFlexViT', 'ViTTrunk'),
    'swin_transformer_v2': ('Swin V2', 'SwinTrunk'),
    'swin_transformer_v2_cr': ('Swin V2 CR', 'SwinTrunk'),
    'vision_transformer_hybrid': ('hybrid ViT', 'ViTTrunk'),
    'vision_transformer_relpos': ('relative-position ViT', 'ViTTrunk'),
    'vision_transformer_sam': ('SAM', 'ViTTrunk'),
}
"""By module of timm: a family that no trunk runs, and the trunk that a user would try."""
_REFUSAL = re.compile(r'trunk\.arch \S+ is not supported \((?P<reason>.*?)\): (?P<remedy>.*)')
_TINY = dict(embed_dim=32, depth=2, num_heads=2)
# timm asks for the number of heads of keys and values block by block.
_BY_BLOCK = '_sapiens2'
# Windows and image size stay: a stage must be made of whole windows.
_TINY_SWIN = dict(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))


def family_names() -> dict[str, str]:
    """Return timm's names of all `FAMILIES` and `RELATIVES`, with their module."""
    modules = [*FAMILIES, *RELATIVES]
    return {arch: module for module in modules for arch in timm.list_models(module=module)}


def compare(arch: str, module: str) -> Support:
    """Build the trunk of a name, shrunken, and compare it with timm's model of the same weights."""
    family, kind = (FAMILIES | RELATIVES)[module]
    if module in RELATIVES:
        given = dict(arch=arch)
    else:
        options = shrink(arch, module)
        reference = make_timm(arch, options)
        given = dict(arch=arch, arch_options=options, weights=reference.state_dict())
    try:
        trunk = _build(kind, given)
    except UserError as error:
        found = _REFUSAL.fullmatch(str(error))
        if found is None:
            raise
        return Support(arch, family, **found.groupdict())
    difference = 0.0
    if getattr(reference, 'attn_pool', None) is not None:
        difference = measure_all(_build(kind, dict(given, attn_pool=True)), reference)
        # What a trunk leaves out unless it is asked for; what is left is averaged.
        reference.attn_pool, reference.global_pool = None, 'avg'
        reference.pool_include_prefix = False
    difference = max(difference, measure_all(trunk, reference))
    has_maps, has_class_token = 'maps' in trunk.capabilities, 'cls_token' in trunk.out_types
    lacks = tuple(sorted(type(trunk).capabilities - trunk.capabilities))
    return Support(arch, family, kind, has_maps, has_class_token, lacks, difference)


def _build(kind: str, options: dict[str, Any]) -> Trunk:
    """Build a trunk as a tuner has it: frozen Linears have a product of their own."""
    return MODELS.get(kind)(**options).eval().requires_grad_(False)


def measure_all(trunk: Trunk, reference: nn.Module) -> float:
    """Compare on the native grid, and on one that is wider and lower; a Swin pads its windows there."""
    patch, grid = trunk.patch_size, trunk.grid_size
    other = (grid[0] - 8, grid[1] + 16) if 'stages' in trunk.capabilities else (3, 6)
    sizes = [(h * patch[0], w * patch[1]) for h, w in (grid, other)]
    return max(measure(trunk, reference, draw_image(*size)) for size in sizes)


def shrink(arch: str, module: str) -> dict[str, Any]:
    """Choose the options that make a model of this name tiny and leave what is special about it."""
    if module == 'swin_transformer':
        return dict(_TINY_SWIN)
    options = dict(_TINY, num_kv_heads=_kv_heads(arch)) if arch.endswith(_BY_BLOCK) else _TINY
    patch = timm.create_model(arch, **options).patch_embed.patch_size
    return dict(options, img_size=(4 * patch[0], 4 * patch[1]))


def _kv_heads(arch: str) -> tuple[int, ...]:
    """Return the heads of keys and values in two blocks, as in its first and its middle one."""
    with torch.device('meta'):
        blocks = timm.create_model(arch).blocks
    groups = [blocks[index].attn.num_kv_groups for index in (0, len(blocks) // 2)]
    return tuple(1 if each > 1 else _TINY['num_heads'] for each in groups)


def make_timm(arch: str, options: dict[str, Any]) -> nn.Module:
    """Build timm's own model with drawn weights, non-trivial in every norm, bias and scale."""
    net = timm.create_model(arch, num_classes=0, dynamic_img_size=True, **options)
    drawn = {key: recipe.tensor(key, value.shape, 0) for key, value in net.state_dict().items()}
    net.load_state_dict({key: torch.from_numpy(value) for key, value in drawn.items()})
    return net.eval()


def draw_image(height: int, width: int) -> Tensor:
    """Draw normalised images (2, 3, height, width)."""
    return torch.from_numpy(recipe.image('image', (2, 3, height, width), 0))


@torch.no_grad()
def measure(trunk: Trunk, reference: nn.Module, image: Tensor) -> float:
    """Compare every output, the final norm's and the pooled one.

    Args:
        trunk: Ours.
        reference: timm's model of the same weights.
        image: (B, 3, H, W).

    Returns:
        The greatest difference, relative to the greatest value that timm gives at the same place.
    """
    tokens, grid = trunk.embed(image)
    taps = trunk.run(tokens, Places(), range(len(trunk.output_dims)), grid)
    last = trunk.final_norm(taps[len(taps) - 1])
    features = reference.forward_features(image)
    pairs = [*zip(taps.values(), timm_outputs(reference, image), strict=True), (last, features)]
    if 'attn_pool' in trunk.out_types:
        pooled = trunk.attention_pool(last)
    else:
        pooled = last[:, 0] if reference.global_pool == 'token' else trunk.pool(last)
    pairs.append((pooled, reference.forward_head(features, pre_logits=True)))
    return max(_relative(*pair) for pair in pairs)


def timm_outputs(reference: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the outputs of timm's blocks (B, P + N, C), or stages (B, h, w, C)."""
    if hasattr(reference, 'layers'):
        maps = reference.forward_intermediates(image, intermediates_only=True)
        return [each.permute(0, 2, 3, 1) for each in maps]
    has_prefix = reference.num_prefix_tokens > 0
    found = reference.forward_intermediates(
        image, return_prefix_tokens=has_prefix, output_fmt='NLC', intermediates_only=True
    )
    if not has_prefix:
        return found
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]


def _relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f'{tuple(ours.shape)} instead of {tuple(theirs.shape)}'
    return float((ours - theirs).abs().max() / theirs.abs().max())
