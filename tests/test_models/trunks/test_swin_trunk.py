"""The Swin trunk: equal to timm's model, foreign weights, outputs, and what is refused."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError
from hstpeft.models import SwinTrunk
from tests.support.arc_pair import SWIN_ARCH, swin_config
from tests.support.models import build, changed, draw, images, snapshot

# Four stages with strides 4, 8, 16 and 32, the last grid covered by one window.
OPTIONS = dict(
    embed_dim=8, depths=(1, 2, 2, 1), num_heads=(1, 2, 2, 4), window_size=2, img_size=64,
    mlp_ratio=2.0,
)  # fmt: skip
DIMS, LIMIT = (8, 16, 32, 64), 1e-10


def make_timm(**options) -> nn.Module:
    """Build timm's own model with drawn weights."""
    swin = timm.create_model(
        SWIN_ARCH, num_classes=0, dynamic_img_size=True, drop_path_rate=0.0, **OPTIONS, **options
    )
    swin.load_state_dict(draw({key: value.shape for key, value in swin.state_dict().items()}))
    return swin.eval()


def swin_weights() -> dict[str, Tensor]:
    return make_timm().state_dict()


def make_backbone(tuner: str = 'FrozenTuner', weights=None, **options) -> nn.Module:
    config = dict(
        type='hstpeft.TunedBackbone',
        trunk=swin_config(weights or swin_weights(), **OPTIONS),
        tuner=dict(type=f'hstpeft.{tuner}'),
        **options,
    )
    return build(config, seed=None).eval()


def padded(image: Tensor) -> Tensor:
    """Pad right and bottom to whole cells of the last stage."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % 32, 0, -height % 32))


@pytest.mark.parametrize(
    'size', [(64, 64), (32, 32), (64, 96), (160, 96), (33, 50), (17, 101), (4, 5)]
)
def test_every_stage_equals_timm(size):
    image = images(2, 3, *size).double()
    with torch.no_grad():
        last, stages = make_timm().double().forward_intermediates(padded(image), norm=False)
        found = make_backbone(out_type='featmap', out_indices=[0, 1, 2, 3]).double()(image)
        pooled = make_backbone().double()(image)[0]
        everything = make_backbone(out_type='raw').double()(image)[0]
    stages = [*stages[:-1], last.permute(0, 3, 1, 2)]  # the backbone's last output is normalised
    for expected, got, stride in zip(stages, found, (4, 8, 16, 32), strict=True):
        cells = [-(-n // stride) for n in size]
        expected = expected[:, :, : cells[0], : cells[1]]
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT)
    torch.testing.assert_close(everything, last, rtol=0, atol=LIMIT)
    torch.testing.assert_close(pooled, last.mean(dim=(1, 2)), rtol=0, atol=LIMIT)


def test_single_precision_is_as_near_to_timm_as_rounding_lets_it():
    image = images(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(make_backbone()(image)[0], make_timm()(image), rtol=0, atol=1e-5)


def test_gradients_of_the_image_equal_timm():
    gradients = []
    backbone, swin = make_backbone().double(), make_timm().double()
    for forward in (lambda x: backbone(x)[0], swin):
        image = images(2, 3, 64, 96).double().requires_grad_()
        forward(image).square().sum().backward()
        gradients.append(image.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=LIMIT)


@pytest.mark.parametrize('size', [(64, 64), (33, 50), (17, 101)])
def test_maps_have_the_strides_and_the_cells_that_the_image_touches(size):
    maps = make_backbone(out_type='featmap', out_indices=range(4))(images(1, 3, *size))
    for x, dims, stride in zip(maps, DIMS, (4, 8, 16, 32), strict=True):
        assert x.shape == (1, dims, -(-size[0] // stride), -(-size[1] // stride))


def test_stages_behind_the_last_output_are_not_run():
    backbone, run = make_backbone(out_type='featmap', out_indices=[1]), []
    for number, layer in enumerate(backbone.trunk.swin.layers):
        layer.blocks[0].norm1.register_forward_hook(lambda *_, number=number: run.append(number))
    backbone(images(1, 3, 64, 64))
    assert run == [0, 1]


def to_microsoft(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors as Microsoft's files do: merging ends a stage; tables and a head are there."""
    official = {'head.weight': torch.ones(7, DIMS[-1]), 'head.bias': torch.ones(7)}
    for key, value in weights.items():
        if '.downsample.' in key:
            _, stage, rest = key.split('.', 2)
            key = f'layers.{int(stage) - 1}.{rest}'
        official[key] = value
        if key.endswith('relative_position_bias_table'):
            official[key.replace('bias_table', 'index')] = torch.zeros(4, 4, dtype=torch.long)
    official['layers.0.blocks.0.attn_mask'] = torch.zeros(4, 4, 4)
    return official


@pytest.mark.parametrize('dialect', ['timm', 'Microsoft'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_of_either_dialect_are_the_same_trunk(tmp_path, dialect, suffix):
    weights, path = swin_weights(), tmp_path / f'swin{suffix}'
    tensors = to_microsoft(weights) if dialect == 'Microsoft' else weights
    if suffix == '.pth':
        torch.save({'model': tensors, 'epoch': 3}, path)
    else:
        save_file(tensors, path)
    trunk = SwinTrunk(SWIN_ARCH, OPTIONS, str(path))
    assert trunk.identity == fingerprint(weights)
    assert all(value.equal(weights[key]) for key, value in trunk.swin.state_dict().items())


def test_trained_deltas_load_on_the_same_trunk_only():
    backbone = make_backbone('ARCTuner')
    assert not [key for key in backbone.state_dict() if key.startswith('trunk.')]
    other = make_backbone('ARCTuner', to_microsoft(swin_weights()))
    other.load_state_dict(backbone.state_dict())
    assert not changed(other, snapshot(backbone))
    changed_weights = swin_weights()
    changed_weights['layers.2.blocks.1.mlp.fc2.bias'] += 1e-6
    with pytest.raises(UserError, match='was made on the trunk'):
        make_backbone('ARCTuner', changed_weights).load_state_dict(backbone.state_dict())


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_drop_path_is_that_of_the_config_and_follows_train(rate):
    trunk = SwinTrunk(SWIN_ARCH, {**OPTIONS, **({'drop_path_rate': rate} if rate else {})})
    rates = [getattr(trunk.block(index).drop_path1, 'drop_prob', 0.0) for index in range(6)]
    assert rates == pytest.approx(torch.linspace(0, rate, 6).tolist())
    assert all(not trunk.eval().block(index).drop_path1.training for index in range(6))


def refusal(arch: str = SWIN_ARCH, weights=None, **options) -> str:
    with pytest.raises(UserError) as error:
        SwinTrunk(arch, {**OPTIONS, **options}, weights)
    message = str(error.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(img_size=72), 'img_size=(72, 72) gives stage 1 a grid of 9 x 9, which windows of 2'),
        (dict(window_size=3), 'stage 0 a grid of 16 x 16, which windows of 3 x 3 do not divide'),
        (dict(img_size=(64, 40)), 'stage 1 a grid of 8 x 5'),
    ],
)
def test_windows_that_do_not_divide_the_grid_are_refused(options, words):
    message = refusal(**options)
    assert words in message and 'multiple of' in message
    multiple = int(re.search(r'multiple of (\d+)', message)[1])
    if 'img_size' in options:  # the remedy works
        SwinTrunk(SWIN_ARCH, {**OPTIONS, 'img_size': 8 * multiple})


def test_weights_of_another_window_are_refused_by_the_shape_of_their_table():
    message = refusal(weights=swin_weights(), window_size=4)
    table = 'layers.0.blocks.0.attn.relative_position_bias_table (9, 1) instead of (49, 1)'
    assert table in message and 'arch_options' in message


def test_missing_and_left_over_tensors_are_listed():
    weights = swin_weights()
    weights['absolute_pos_embed'] = weights.pop('norm.bias')
    message = refusal(weights=weights)
    assert 'missing: norm.bias' in message and 'unexpected: absolute_pos_embed' in message


@pytest.mark.parametrize(
    'arch, words',
    [
        ('vit_tiny_patch16_224', 'no Swin'),
        ('swinv2_tiny_window8_256', 'no Swin'),
        ('resnet18', 'no Swin'),
        ('swin_tiny_patch4_window7_225', "did you mean 'swin_tiny_patch4_window7_224'"),
    ],
)
def test_another_family_is_refused_by_name(arch, words):
    with pytest.raises(UserError) as error:
        SwinTrunk(arch)
    message = str(error.value)
    assert arch in message and words in message and 'swin_' in message


@pytest.mark.parametrize('option', ['windw_size', 'num_classes', 'depth'])
def test_an_unknown_option_is_refused_by_name(option):
    assert option in refusal(**{option: 2})


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(out_type='cls_token'), 'a Swin has no class token'),
        (dict(out_indices=[4]), 'rising numbers from 0 to 3'),
        (
            dict(tuner='HSTTuner'),
            '(token_sequence); use hstpeft.EvaTrunk or hstpeft.ViTTrunk',
        ),
        (dict(tuner='MemoryTokensTuner'), 'MemoryTokensTuner is not defined for a SwinTrunk'),
    ],
)
def test_what_a_swin_cannot_do_is_refused_by_the_backbone(options, words):
    with pytest.raises(UserError) as error:
        make_backbone(**options)
    assert words in str(error.value)
