"""Merging: exact in double precision, on a copy, and a file that timm runs alone."""

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.trunks.plain_timm import feature_change, timm_arguments
from tests.support import models
from tests.support.families import SWIN, SWIN_ARCH

VIT = dict(
    type='hstpeft.ViTTrunk',
    arch=models.ARCH,
    arch_options={**models.VIT, 'depth': 2, 'weight_init': ''},
)
AIMV2 = {**VIT, 'arch': 'aimv2_large_patch14_224'}
EVA_OPTIONS = dict(embed_dim=32, depth=2, num_heads=2, img_size=32, patch_size=8)
DINOV3 = dict(type='hstpeft.EvaTrunk', arch='vit_small_patch16_dinov3', arch_options=EVA_OPTIONS)
DINOV3_QKVB = {**DINOV3, 'arch': 'vit_small_patch16_dinov3_qkvb'}
EVA02 = {**DINOV3, 'arch': 'eva02_base_patch14_224'}
SWIN = dict(type='hstpeft.SwinTrunk', arch=SWIN_ARCH, arch_options={**SWIN, 'depths': (1, 2)})
SWIN['arch_options']['num_heads'] = (2, 2)
ARC = dict(type='hstpeft.ARCTuner', adapter_dims=4)
ARC_MLP = dict(ARC, positions=['mlp'])
ARC_ATT = dict(ARC, positions=['attention'])
LORA = dict(type='hstpeft.LoRATuner', positions=['qkv', 'proj', 'fc2'], rank=2)
DORA = dict(type='hstpeft.HFPeftTuner', peft_type='DORA', positions=['proj'], r=2)
SSF = dict(type='hstpeft.SSFTuner')
NORMS = dict(type='hstpeft.SelectiveTuner', parts=['norms'])
BIASES = dict(type='hstpeft.SelectiveTuner', parts=['biases'])
QKV_BIAS = {'qkv_bias': True}
KEY_BIAS = {'attn_type': 'rope', **QKV_BIAS}
CASES = {
    'ARC': (VIT, ARC, {}),
    'ARC, no query bias': (VIT, ARC, QKV_BIAS),
    'ARC, gated MLPs without biases': (AIMV2, ARC, {'proj_bias': True, **QKV_BIAS}),
    'ARC, a key bias under rope': (DINOV3, ARC, KEY_BIAS),
    'ARC, three Linears under rope': (EVA02, ARC, KEY_BIAS),
    'SSF, biases beside qkv': (DINOV3_QKVB, SSF, KEY_BIAS),
    'ARC, attention of a Swin': (SWIN, ARC_ATT, {}),
    'LoRA': (VIT, LORA, {}),
    'LoRA in a Swin': (SWIN, LORA, {}),
    'DoRA + LoRA': (VIT, [DORA, dict(LORA, positions=['fc1'])], {}),
    'SSF': (VIT, SSF, {}),
    'SSF in a Swin, no query bias': (SWIN, SSF, QKV_BIAS),
    'BitFit': (VIT, BIASES, {}),
    'full': (SWIN, dict(type='hstpeft.FullTuner'), {}),
    'ARC + SSF': (VIT, [ARC, SSF], {}),
    'ARC + LoRA + norms': (VIT, [ARC, LORA, NORMS], {}),
    'BitFit + ARC': (SWIN, [BIASES, ARC_ATT], {}),
    'LoRA + ARC, no query bias': (AIMV2, [dict(LORA, positions=['proj']), ARC_ATT], QKV_BIAS),
}


def trunk_of(name: str, weights=None, **options) -> dict:
    trunk, _, _ = CASES[name]
    lacks = {'qkv_bias': False} if 'no query bias' in name else {}
    return {
        **trunk,
        'arch_options': {**trunk['arch_options'], **lacks, **options},
        'weights': weights,
    }


def shake(model: torch.nn.Module) -> None:
    """Move all that is trained, in place."""
    generator, frozen = torch.Generator().manual_seed(1), model.backbone.frozen_names
    for name, parameter in model.backbone.named_parameters():
        if name not in frozen:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.1 * noise


class Model(torch.nn.Module):
    """Has a backbone, as a host's model."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the last block."""
        return self.backbone(image)[0]


def model_of(name: str, tuner, weights, **options) -> torch.nn.Module:
    """A tuned backbone in double precision."""
    trunk = trunk_of(name, weights, **options)
    config = dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner, out_type='raw')
    return Model(models.MODELS.build(config)).double().eval().requires_grad_(False)


@pytest.mark.parametrize('name', CASES)
def test_a_merged_copy_is_exact_and_timm_runs_its_file(name, tmp_path):
    shapes = models.MODELS.build(trunk_of(name)).timm_tensors()
    weights = models.draw({key: value.shape for key, value in shapes.items()}, seed=3)
    model, image = model_of(name, CASES[name][1], weights), models.images(2, 3, 32, 32)
    shake(model)
    own, before = model(image.double()), models.snapshot(model)
    tensors, merged = merge(model)
    torch.testing.assert_close(merged(image.double()), own, rtol=0, atol=1e-10)
    assert models.changed(model, before) == set(), 'the live model goes on'
    assert model(image.double()).equal(own)
    bare = model_of(name, models.FROZEN, weights)
    assert (bare(image.double()) - own).abs().max() > 1e-2

    options, path = merged.backbone.trunk.timm_options(), tmp_path / 'merged.safetensors'
    assert options == CASES[name][2]
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, path)
    trunk = merged.float().backbone.trunk
    assert feature_change(trunk, timm_arguments(trunk), path, image) < 1e-5
    again = model_of(name, models.FROZEN, str(path), **options)
    torch.testing.assert_close(again(image.double()), own, rtol=0, atol=1e-5)
    assert again.backbone.trunk.identity == merged.backbone.trunk.identity


def test_a_list_with_a_tuner_that_cannot_be_merged_is_refused_by_its_name_before_anything_is_folded():
    model = model_of('LoRA', [LORA, dict(type='hstpeft.VPTTuner')], None)
    before = models.snapshot(model)
    with pytest.raises(UserError, match=r'VPTTuner cannot be merged .* deploy the delta beside'):
        model.backbone.merge_tuner()
    assert models.changed(model, before) == set()


def test_timm_has_no_windows_and_no_hvt():
    windowed = models.MODELS.build({**trunk_of('LoRA'), 'window_size': 2})
    with pytest.raises(UserError, match='no model like this ViTTrunk, windows of 2'):
        timm_arguments(windowed)
    with pytest.raises(UserError, match='no model like this HVTTrunk'):
        timm_arguments(models.MODELS.build(models.hvt_config()))


def test_weights_of_another_image_size_name_it():
    trunk = models.MODELS.build(trunk_of('LoRA', models.vit_weights(depth=2), img_size=64))
    assert timm_arguments(trunk)['img_size'] == (32, 32)
