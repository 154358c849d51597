"""A tiny trunk of each family with drawn weights, bare, tuned, and as timm builds it."""

import copy
import functools
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.support.models import ARCH, MODELS, VIT, draw

SWIN_ARCH = 'swin_tiny_patch4_window7_224'
SWIN = dict(
    img_size=32, patch_size=2, embed_dim=16, depths=(1, 2, 2, 1), num_heads=(2, 2, 2, 4),
    window_size=4,
)  # fmt: skip
HVT = dict(embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8)
EVA_ARCH = 'vit_small_patch16_dinov3'
EVA = dict(embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8)
TRUNKS = {
    'vit': dict(type='hstpeft.ViTTrunk', arch=ARCH, arch_options={**VIT, 'weight_init': ''}),
    'eva': dict(type='hstpeft.EvaTrunk', arch=EVA_ARCH, arch_options=EVA),
    'swin': dict(type='hstpeft.SwinTrunk', arch=SWIN_ARCH, arch_options=SWIN),
    'hvt': dict(type='hstpeft.HVTTrunk', arch='hvt_ti_1', arch_options=HVT, pool_width=2),
}
FAMILIES = tuple(TRUNKS)
FROZEN = dict(type='hstpeft.FrozenTuner')


@functools.cache
def weights(family: str, seed: int = 3) -> dict[str, Tensor]:
    """Draw the weights of a trunk: by timm's names, non-trivial everywhere."""
    trunk = MODELS.build(dict(TRUNKS[family]))
    return draw({name: value.shape for name, value in trunk.timm_tensors().items()}, seed)


def trunk_config(family: str, **options: Any) -> dict[str, Any]:
    """Config of a trunk; ``arch_options`` are added to the usual ones, and then it is random."""
    own = TRUNKS[family]
    arch_options = {**own['arch_options'], **options.pop('arch_options', {})}
    drawn = weights(family) if arch_options == own['arch_options'] else None
    return {**own, 'arch_options': arch_options, 'weights': drawn, **options}


def build_trunk(family: str, **options: Any) -> nn.Module:
    """Build a trunk alone."""
    return MODELS.build(trunk_config(family, **options)).eval()


def tuned(
    family: str,
    tuner: dict[str, Any] | list[dict[str, Any]],
    trunk: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a tuned backbone in eval mode, as a user gets it; drawn with the same seed each time.

    Args:
        family: One of `FAMILIES`.
        tuner: Its config, or a list of them.
        trunk: Options of the trunk beside the usual ones.
        options: Of the backbone.
    """
    config = dict(
        trunk=trunk_config(family, **(trunk or {})), tuner=copy.deepcopy(tuner), **options
    )
    torch.manual_seed(0)
    return MODELS.build(dict(type='hstpeft.TunedBackbone', **config)).eval()


def shake(backbone: nn.Module, size: float = 0.1, seed: int = 0) -> nn.Module:
    """Move what a backbone trains away from where it starts, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(size * noise.to(parameter.dtype))
    return backbone


def timm_model(family: str, tensors: dict[str, Tensor], **options: Any) -> nn.Module:
    """Build what timm alone makes of weights by its names; they must be exactly those it wants."""
    arch = TRUNKS[family]['arch']
    net = timm.create_model(arch, num_classes=0, **TRUNKS[family]['arch_options'], **options)
    net.load_state_dict(tensors, strict=True)
    return net.eval()
