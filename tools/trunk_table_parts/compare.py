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
# Windows and image size stay: a stage must be made of whole windows.
_TINY_SWIN = dict(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))


def family_names() -> dict[str, str]:
    """Return timm's names of all `FAMILIES` and `RELATIVES`, with their module."""
    modules = [*FAMILIES, *RELATIVES]
    return {arch: module for module in modules for arch in timm.list_models(module=module)}


def compare(arch: str, module: str) -> Support:
    """Build the trunk of a name, shrunken, and compare it with timm's model of the same weights."""
    family, kind = (FAMILIES | RELATIVES)[module]
    options = {} if module in RELATIVES else shrink(arch, module)
    try:
        # The refusal first: what is not supported need not have weights that can be drawn.
        trunk = MODELS.get(kind)(arch, options)
    except UserError as error:
        found = _REFUSAL.fullmatch(str(error))
        if found is None:
            raise
        return Support(arch, family, **found.groupdict())
    reference = make_timm(arch, options)
    trunk = MODELS.get(kind)(arch, options, weights=reference.state_dict()).eval()
    trunk.requires_grad_(False)  # as a tuner has it: frozen Linears have a product of their own
    patch, grid = trunk.patch_size, trunk.grid_size
    # Wider than the native grid and lower; a Swin pads its windows there.
    other = (grid[0] - 8, grid[1] + 16) if kind == 'SwinTrunk' else (grid[0] - 1, grid[1] + 2)
    sizes = [(h * patch[0], w * patch[1]) for h, w in (grid, other)]
    difference = max(measure(trunk, reference, draw_image(*size)) for size in sizes)
    has_maps, has_class_token = 'maps' in trunk.capabilities, 'cls_token' in trunk.out_types
    return Support(arch, family, kind, has_maps, has_class_token, difference)


def shrink(arch: str, module: str) -> dict[str, Any]:
    """Choose the options that make a model of this name tiny and leave what is special about it."""
    if module == 'swin_transformer':
        return dict(_TINY_SWIN)
    with torch.device('meta'):
        patch = timm.create_model(arch, **_TINY).patch_embed.patch_size
    return dict(_TINY, img_size=(4 * patch[0], 4 * patch[1]))


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
    outputs = timm_outputs(reference, image)
    features = reference.forward_features(image)
    pairs = [*zip(taps.values(), outputs, strict=True), (last, features)]
    if getattr(reference, 'attn_pool', None) is not None:
        # What a trunk leaves out: the pooling that belongs to the head.
        reference.attn_pool, reference.global_pool = None, 'avg'
    pooled = last[:, 0] if reference.global_pool == 'token' else trunk.pool(last)
    pairs.append((pooled, reference.forward_head(features, pre_logits=True)))
    return max(_relative(*pair) for pair in pairs)


def timm_outputs(reference: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the outputs of timm's blocks (B, P + N, C), or stages (B, h, w, C)."""
    if hasattr(reference, 'layers'):
        maps = reference.forward_intermediates(image, intermediates_only=True)
        return [each.permute(0, 2, 3, 1) for each in maps]
    found = reference.forward_intermediates(
        image, return_prefix_tokens=True, output_fmt='NLC', intermediates_only=True
    )
    if not reference.num_prefix_tokens:
        return found
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]


def _relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f'{tuple(ours.shape)} instead of {tuple(theirs.shape)}'
    return float((ours - theirs).abs().max() / theirs.abs().max())
