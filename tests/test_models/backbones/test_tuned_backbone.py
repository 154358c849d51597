"""The backbone: sizes, outputs, freezing, refusals."""

import math

import pytest
import timm
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from tests.support.models import (
    ARCH,
    FROZEN,
    SWIN,
    VIT,
    backbone_config,
    build,
    changed,
    classifier_config,
    hst_config,
    images,
    snapshot,
    trunk_config,
    vit_weights,
)  # fmt: skip

SIZES = [(32, 32), (33, 47), (8, 8), (9, 64), (31, 8)]


def frozen_backbone(**options):
    return build(backbone_config(tuner=FROZEN, **options)).eval()


def timm_vit():
    vit = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True, **VIT)
    vit.load_state_dict(vit_weights())
    return vit.eval()


def padded(image, multiple):
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('size', SIZES)
def test_hst_maps_have_the_side_widths_at_strides_4_to_32(size, batch):
    maps = build(backbone_config()).eval()(images(batch, 3, *size))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape) for x in maps] == [
        (batch, dims, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for dims, stride in zip((8, 12, 12, 16), (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize('size', SIZES)
def test_padding_equals_padding_by_hand(size):
    backbone, image = build(backbone_config()).eval(), images(2, 3, *size)
    for own, by_hand in zip(backbone(image), backbone(padded(image, 8)), strict=True):
        assert own.equal(by_hand[..., : own.shape[-2], : own.shape[-1]])


def test_a_patch_that_4_does_not_divide_is_padded_to_a_common_multiple():
    config = backbone_config(trunk_config(patch_size=6, img_size=24))
    backbone, image = build(config).eval(), images(1, 3, 25, 30)
    for own, by_hand in zip(backbone(image), backbone(padded(image, 12)), strict=True):
        assert own.equal(by_hand[..., : own.shape[-2], : own.shape[-1]])
    assert [tuple(x.shape[-2:]) for x in backbone(image)] == [(7, 8), (4, 4), (2, 2), (1, 1)]


def test_an_image_of_a_batch_does_not_depend_on_the_others():
    backbone, image = build(backbone_config()).eval(), images(3, 3, 32, 40)
    for together, alone in zip(backbone(image), backbone(image[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize('size', [(7, 32), (32, 7)])
@pytest.mark.parametrize('tuner', [None, FROZEN], ids=['hst', 'frozen'])
def test_an_image_smaller_than_a_patch_is_refused(tuner, size):
    with pytest.raises(UserError, match=f'{size[0]} x {size[1]}.*8 x 8'):
        build(backbone_config(tuner=tuner))(images(1, 3, *size))


@pytest.mark.parametrize('indices, picked', [((3,), [3]), ((0, 2), [0, 2]), ((-2, -1), [2, 3])])
def test_out_indices_pick_hst_maps(indices, picked):
    image = images(1, 3, 32, 32)
    every = build(backbone_config()).eval()(image)
    some = build(backbone_config(out_indices=indices)).eval()(image)
    assert all(a.equal(every[i]) for a, i in zip(some, picked, strict=True))


@pytest.mark.parametrize(
    'options, channels, strides',
    [
        (dict(), (8, 12, 12, 16), ((4, 4), (8, 8), (16, 16), (32, 32))),
        (dict(out_indices=(-3, 3)), (12, 16), ((8, 8), (32, 32))),
        (dict(tuner=FROZEN, out_type='featmap', out_indices=2), (32,), ((8, 8),)),
        (dict(tuner=FROZEN, out_type='avg_featmap', out_indices=(0, 1)), (32, 32), ()),
        (
            dict(trunk=SWIN, tuner=FROZEN, out_type='avg_featmap', out_indices=(1, 3)),
            (32, 128),
            (),
        ),
        (
            dict(trunk=SWIN, tuner=FROZEN, out_type='featmap', out_indices=(0, 2)),
            (16, 64),
            ((2, 2), (8, 8)),
        ),
    ],
)
def test_the_declared_widths_and_strides_are_those_of_the_outputs(options, channels, strides):
    backbone = build(backbone_config(**options)).eval()
    assert (backbone.out_channels, backbone.out_strides) == (channels, strides)
    outputs = backbone(images(1, 3, 40, 27))
    assert tuple(x.shape[1] for x in outputs) == channels
    cells = [(math.ceil(40 / rows), math.ceil(27 / columns)) for rows, columns in strides]
    assert [tuple(x.shape[2:]) for x in outputs if x.ndim == 4] == cells


@pytest.mark.parametrize('size', [(32, 32), (27, 44)])
@pytest.mark.parametrize('out_type', [None, 'cls_token', 'avg_featmap', 'featmap', 'raw'])
def test_outputs_of_the_frozen_trunk_equal_those_of_timm(out_type, size):
    image = images(2, 3, *size)
    (got,) = frozen_backbone(out_type=out_type)(image)
    with torch.no_grad():
        tokens = timm_vit().forward_features(padded(image, 8))
    grid = tuple(math.ceil(n / 8) for n in size)
    expected = {
        None: tokens[:, 0],
        'cls_token': tokens[:, 0],
        'avg_featmap': tokens[:, 1:].mean(dim=1),
        'featmap': tokens[:, 1:].transpose(1, 2).unflatten(2, grid),
        'raw': tokens,
    }[out_type]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_registers_are_no_class_token_and_no_patches():
    trunk, image = trunk_config(reg_tokens=3), images(2, 3, 32, 24)
    shapes = {
        'cls_token': (2, 32),
        'avg_featmap': (2, 32),
        'featmap': (2, 32, 4, 3),
        'raw': (2, 16, 32),
    }
    outputs = {}
    for out_type, shape in shapes.items():
        config = backbone_config(trunk, FROZEN, out_type=out_type)
        (outputs[out_type],) = build(config).eval()(image)
        assert outputs[out_type].shape == shape
    raw = outputs['raw']
    assert outputs['cls_token'].equal(raw[:, 0])
    torch.testing.assert_close(outputs['featmap'].flatten(2).mean(dim=2), raw[:, 4:].mean(dim=1))
    torch.testing.assert_close(outputs['avg_featmap'], raw[:, 4:].mean(dim=1))


def test_out_indices_of_the_frozen_trunk_are_blocks_with_only_the_last_normalised():
    image, vit = images(2, 3, 32, 32), timm_vit()
    with torch.no_grad():
        blocks = vit.forward_intermediates(
            image, indices=[1, 3], norm=False, intermediates_only=True
        )
        last = vit.forward_features(image)
    first, second = frozen_backbone(out_type='featmap', out_indices=(1, -1))(image)
    torch.testing.assert_close(first, blocks[0], rtol=1e-5, atol=1e-5)
    expected = last[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-5)


def test_a_class_token_of_a_trunk_without_one_is_refused():
    trunk = trunk_config(class_token=False, global_pool='avg', no_embed_class=True)
    with pytest.raises(UserError, match='cls_token'):
        build(backbone_config(trunk, FROZEN, out_type='cls_token'))


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')), 'init_cfg.*trunk.weights'),
        (dict(out_type='featmap'), "out_type 'featmap'"),
        (dict(tuner=FROZEN, out_type='feature_map'), "out_type 'feature_map'.*featmap"),
        (dict(out_indices=(0, 4)), r'out_indices \(0, 4\).*0 to 3'),
        (dict(out_indices=(2, 1)), r'out_indices \(2, 1\)'),
        (dict(out_indices=()), 'out_indices'),
        (dict(out_indices=(4,)), r'\(4,\).*-4 to -1.*4 maps, at strides 4, 8, 16, 32'),
        (dict(tuner=FROZEN, out_indices=(-5,)), r'\(-5,\).*0 to 3.*4 blocks of the trunk'),
        (dict(trunk=SWIN, tuner=FROZEN, out_indices=4), r'\(4,\).*4 stages of the trunk'),
        (dict(tuner=hst_config(side_dims=(8, 8, 8))), r'side_dims \(8, 8, 8\)'),
        (dict(tuner=hst_config(side_heads=(2, 2, 2, 3))), 'side_heads 3.*16'),
        (dict(tuner=hst_config(num_meta_tokens=0)), 'num_meta_tokens 0'),
        (dict(tuner=hst_config(side_depths=(1, 1, 1))), r'side_depths \(1, 1, 1\)'),
        (dict(tuner=hst_config(side_depths=(2, 2, 2, 2))), 'sum to 8.*4 blocks'),
        (dict(tuner=hst_config(tap_indices=(0, 1, 2))), r'tap_indices \(0, 1, 2\).*4 side'),
        (dict(tuner=hst_config(tap_indices=(0, 2, 1, 3))), 'rising'),
        (dict(tuner=hst_config(tap_indices=(0, 1, 2, 4))), 'out of range.*4 blocks'),
    ],
)
def test_wrong_arguments_are_refused_by_name_value_and_remedy(options, words):
    with pytest.raises(UserError, match=words):
        build(backbone_config(**options), seed=None)


def test_a_trunk_of_three_blocks_has_too_few_for_four_stages():
    with pytest.raises(UserError, match='reads a block in each of its four stages, and only 3'):
        build(backbone_config(trunk_config(depth=3)), seed=None)


def test_blocks_behind_the_last_tap_are_neither_trained_nor_run():
    backbone = build(backbone_config(tuner=hst_config(tap_indices=(0, 0, 1, 1))))
    assert len(backbone.tuner.meta_tokens) == 2
    for block in backbone.trunk.vit.blocks[2:]:
        assert not any(p.requires_grad for p in block.parameters())
        block.forward = block.attn.forward = block.mlp.forward = None  # calling None would raise
    assert len(backbone(images(2, 3, 32, 32))) == 4


@pytest.mark.parametrize('tuner', [None, FROZEN], ids=['hst', 'frozen'])
def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one(tuner):
    backbone = build(backbone_config(tuner=tuner), seed=None)
    outputs = backbone(images(2, 3, 32, 32))
    if not any(p.requires_grad for p in backbone.parameters()):
        assert tuner is FROZEN and not any(x.requires_grad for x in outputs)
        return
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        # A key bias under a softmax changes nothing: its gradient is zero but for rounding.
        if parameter.requires_grad and not name.endswith('attn.k.bias'):
            assert parameter.grad.abs().max() > 0, name


def test_training_changes_the_delta_and_nothing_else():
    model = build(classifier_config()).train()
    before = snapshot(model)
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=0.01, weight_decay=0.1)
    image, labels = images(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    for mode in (True, False, True):
        model.train(mode)
        optimizer.zero_grad()
        logits = model.head(model.neck(model.backbone(image)))
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    statistics = {name for name, _ in model.named_buffers() if 'backbone' in name or 'neck' in name}
    assert changed(model, before) == trained | statistics


def test_init_weights_of_a_host_leaves_the_trunk_bit_identical():
    model = build(classifier_config(), seed=None)
    before = snapshot(model.backbone.trunk)
    model.init_weights()
    assert not changed(model.backbone.trunk, before)
    weights = vit_weights()
    state = model.backbone.trunk.vit.state_dict()
    assert all(state[key].equal(value) for key, value in weights.items())


def test_a_frozen_backbone_builds_no_graph():
    (tokens,) = build(backbone_config(tuner=FROZEN)).train()(images(1, 3, 32, 32))
    assert tokens.grad_fn is None


def test_out_norm_normalises_the_maps_but_the_last_and_is_trained():
    options = dict(out_type='featmap', out_indices=[0, 1, 3])
    cfg = backbone_config(SWIN, FROZEN, **options)
    plain, normed = build(cfg), build(dict(cfg, out_norm=True))
    kept = ('out_norms.', '_extra_state')
    own = {k: v for k, v in normed.state_dict().items() if k.startswith(kept)}
    missing = normed.load_state_dict(plain.state_dict() | own)
    assert not missing.missing_keys
    image = images(2, 3, 33, 47)
    for index, (before, after) in enumerate(zip(plain(image), normed(image), strict=True)):
        tokens = before.permute(0, 2, 3, 1)
        norm = [normed.out_norms['0'], normed.out_norms['1'], torch.nn.Identity()][index]
        expected = norm(tokens)
        torch.testing.assert_close(after.permute(0, 2, 3, 1), expected, atol=1e-5, rtol=1e-5)
    trained = {name for name, p in normed.named_parameters() if p.requires_grad}
    assert trained == {
        f'out_norms.{index}.{part}' for index in (0, 1) for part in ('weight', 'bias')
    }
    assert trained <= normed.state_dict().keys()


@pytest.mark.parametrize('cfg', [backbone_config(), backbone_config(tuner=FROZEN)])
def test_out_norm_is_refused_where_there_are_no_maps_of_the_trunk(cfg):
    with pytest.raises(
        UserError, match='out_norm True applies to maps of the trunk: set out_type='
    ):
        build(dict(cfg, out_norm=True))


@pytest.mark.parametrize('trunk', [None, SWIN])
def test_maps_are_contiguous_for_the_sake_of_roi_align(trunk):
    options = dict(out_type='featmap', out_indices=[0, 3])
    backbones = [backbone_config(trunk, FROZEN, **options)] + ([] if trunk else [backbone_config()])
    for size in ((32, 32), (33, 47)):
        for cfg in backbones:
            assert all(x.is_contiguous() for x in build(cfg)(images(2, 3, *size)))
