"""What reads the maps must fit them: real necks and heads of the three hosts on a tiny backbone."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from hstpeft.apis import init_model
from hstpeft.engine.checks.channels import check_channels
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.dense_data import config, seg_dataset, write_segmentation
from tests.support.models import backbone_config, classifier_config, trunk_config

WIDTHS = [8, 12, 12, 16]  # HST's of backbone_config
GIVEN = 'the backbone gives maps of 8, 12, 12, 16 channels at strides 4, 8, 16, 32'
BN = dict(type='BN')


def plain(**options) -> dict:
    """A backbone of one map or vector of 32 channels."""
    return backbone_config(tuner=dict(type='hstpeft.FrozenTuner'), **options)


def fpn(in_channels: list[int], **options) -> dict:
    return dict(type='mmseg.FPN', in_channels=in_channels, out_channels=8, num_outs=4, **options)


def pyramid(in_channels: int) -> dict:
    return dict(type='hstpeft.SimpleFeaturePyramid', in_channels=in_channels, out_channels=8)


def upernet(in_channels: list[int], in_index=(0, 1, 2, 3)) -> dict:
    return dict(
        type='mmseg.UPerHead', in_channels=in_channels, in_index=list(in_index), channels=8,
        num_classes=3, pool_scales=(1, 2), norm_cfg=BN,
    )  # fmt: skip


def semantic_fpn(width: int = 8) -> dict:
    return dict(
        type='mmseg.FPNHead', in_channels=[width] * 4, in_index=[0, 1, 2, 3], channels=8,
        feature_strides=[4, 8, 16, 32], num_classes=3, norm_cfg=BN,
    )  # fmt: skip


def fcn(in_channels, in_index, **options) -> dict:
    return dict(
        type='mmseg.FCNHead', in_channels=in_channels, in_index=in_index, channels=8,
        num_classes=3, norm_cfg=BN, **options,
    )  # fmt: skip


def segmentor(neck=None, head=None, backbone=None, **options) -> dict:
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        backbone=backbone or backbone_config(),
        neck=neck,
        decode_head=head or semantic_fpn(),
        test_cfg=dict(mode='whole'),
        **options,
    )


def check(model: dict, scope: str = 'mmseg') -> None:
    with DefaultScope.overwrite_default_scope(scope):
        check_channels(MODELS.build(model))


RIGHT = {
    'FPN': segmentor(fpn(WIDTHS)),
    'FPN, first map unused': segmentor(fpn([999, *WIDTHS[1:]], start_level=1)),
    'UPerNet and two auxiliary heads': segmentor(
        None, upernet(WIDTHS), auxiliary_head=[fcn(12, 2), fcn(8, 0)]
    ),
    'one map': segmentor(None, fcn(16, -1)),
    'maps side by side': segmentor(
        None, fcn(WIDTHS, [0, 1, 2, 3], input_transform='resize_concat')
    ),
    'pyramid of one map': segmentor(pyramid(32), None, plain(out_type='featmap')),
    'pyramid of two maps': segmentor(
        pyramid(32), None, plain(out_type='featmap', out_indices=[1, 3])
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', RIGHT)
def test_model_of_mmseg_that_fits(case):
    pytest.importorskip('mmseg.models')
    check(RIGHT[case])


WRONG = {
    'widths of a ResNet': (
        segmentor(fpn([256, 512, 1024, 2048])),
        f'model.neck.in_channels [256, 512, 1024, 2048] does not match: {GIVEN}; '
        f'set model.neck.in_channels={WIDTHS}',
    ),
    'too few maps': (
        segmentor(fpn(WIDTHS[:3])),
        f'model.neck.in_channels {WIDTHS[:3]} does not match: {GIVEN}; ',
    ),
    'head behind a neck': (
        segmentor(fpn(WIDTHS), semantic_fpn(16)),
        'model.decode_head.in_channels [16, 16, 16, 16] does not match: the neck gives 4 maps of 8 '
        'channels; set model.decode_head.in_channels=[8, 8, 8, 8]',
    ),
    'head without a neck': (
        segmentor(None, upernet([8, 12, 12, 17])),
        f'model.decode_head.in_channels [8, 12, 12, 17] does not match: {GIVEN}; ',
    ),
    'index beyond the maps': (
        segmentor(None, upernet(WIDTHS, (0, 1, 2, 4))),
        f'model.decode_head.in_index [0, 1, 2, 4] reads map 4, but {GIVEN}: '
        'set indices from 0 to 3',
    ),
    'auxiliary head': (
        segmentor(None, upernet(WIDTHS), auxiliary_head=fcn(1024, 2)),
        f'model.auxiliary_head.in_channels 1024 does not match: {GIVEN}; '
        'set model.auxiliary_head.in_channels=12',
    ),
    'second auxiliary head': (
        segmentor(None, upernet(WIDTHS), auxiliary_head=[fcn(12, 2), fcn(12, 3)]),
        'model.auxiliary_head.1.in_channels 12 does not match: ',
    ),
    'maps side by side': (
        segmentor(None, fcn([8, 12, 12, 9], [0, 1, 2, 3], input_transform='resize_concat')),
        f'model.decode_head.in_channels (in all 41) does not match: {GIVEN}; '
        f'set model.decode_head.in_channels={WIDTHS}',
    ),
    'pyramid': (
        segmentor(pyramid(192), None, plain(out_type='featmap')),
        'model.neck.in_channels 192 does not match: the backbone gives maps of 32 channels at '
        'stride 8; set model.neck.in_channels=32',
    ),
    'pyramid of unlike maps': (
        segmentor(pyramid(8)),
        f'model.neck.in_channels 8: SimpleFeaturePyramid reads maps of one width, but {GIVEN}: ',
    ),
    'no maps': (
        segmentor(pyramid(32), None, plain()),
        "model.backbone.out_type 'cls_token' gives no maps, which model.decode_head reads: "
        "set model.backbone.out_type='featmap'",
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', WRONG)
def test_model_of_mmseg_that_does_not_fit_is_told_key_maps_and_remedy(case):
    pytest.importorskip('mmseg.models')
    model, message = WRONG[case]
    with pytest.raises(UserError, match='^' + re.escape(message)):
        check(model)


# Of each shipped task part a key that is set to a wrong number, and how many maps its neck gives.
DETECTORS = {
    'atss': ('bbox_head.in_channels', 64, 5),
    'mask-rcnn': ('rpn_head.in_channels', 64, 5),
    'cascade-mask-rcnn': ('roi_head.bbox_roi_extractor.out_channels', 64, 5),
}


@pytest.mark.parametrize('task', DETECTORS)
def test_detector_of_mmdet(task):
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    key, number, count = DETECTORS[task]
    cfg = Config.fromfile(tiny.ROOT / f'configs/_base_/tasks/{task}.py')
    cfg.model.backbone = backbone_config()
    cfg.model.neck.in_channels = WIDTHS
    cfg.model.neck.out_channels = 256
    if task == 'atss':
        cfg.model.bbox_head.num_classes = 3
    if task == 'cascade-mask-rcnn':  # to build it faster
        for head in cfg.model.roi_head.bbox_head:
            head.fc_out_channels = 8
    check(cfg.model, 'mmdet')
    with pytest.raises(UserError, match=r'^model\.neck\.in_channels \[8\] does not match: .+'):
        check({**cfg.model, 'neck': {**cfg.model.neck, 'in_channels': [8]}}, 'mmdet')
    cfg.merge_from_dict({f'model.{key}': number})
    said = f'model.{key} {number} does not match: the neck gives {count} maps of 256 channels; '
    with pytest.raises(UserError, match='^' + re.escape(said + f'set model.{key}=256')):
        check(cfg.model, 'mmdet')


def test_norm_of_a_map_that_the_neck_leaves_unread():
    """It would get no gradient, and DDP would wait for it."""
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    maps = dict(out_type='featmap', out_indices=[0, 1, 2, 3])
    neck = dict(type='mmdet.FPN', in_channels=[32] * 4, out_channels=8, num_outs=5, start_level=1)
    model = nn.Module()
    model.neck = MODELS.build(neck)
    model.backbone = MODELS.build(plain(**maps))
    check_channels(model)
    model.backbone = MODELS.build(plain(out_norm=True, **maps))
    said = (
        'model.backbone.out_norm True puts a trainable norm on the map of index 0, which '
        'model.neck leaves unread: set model.backbone.out_indices=[1, 2, 3], '
        'model.neck.in_channels=[32, 32, 32], model.neck.start_level=0 and model.neck.end_level=-1'
    )
    with pytest.raises(UserError, match='^' + re.escape(said) + '$'):
        check_channels(model)
    model.backbone = MODELS.build(plain(out_norm=True, **{**maps, 'out_indices': [1, 2, 3]}))
    model.neck = MODELS.build({**neck, 'in_channels': [32] * 3, 'start_level': 0})
    check_channels(model)


def test_classifier_of_mmpretrain():
    check(classifier_config(), 'mmpretrain')
    wrong = classifier_config()
    wrong['head']['in_channels'] = 32
    said = 'model.head.in_channels 32 does not match: the neck gives a vector of 16 channels; '
    with pytest.raises(UserError, match='^' + re.escape(said)):
        check(wrong, 'mmpretrain')
    wrong['neck']['in_channels'] = 32
    with pytest.raises(UserError, match=r'^model\.neck\.in_channels 32 does not match: .+=16$'):
        check(wrong, 'mmpretrain')


def test_plain_head_on_a_backbone_of_two_branches():
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone_config(
            trunk=trunk_config(img_size=32), tuner=dict(type='hstpeft.SA2VPTuner')
        ),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32),
    )
    said = r'^model\.head\.type LinearClsHead reads one vector .+TwoBranchClsHead'
    with pytest.raises(UserError, match=said):
        check(model, 'mmpretrain')
    model['head']['type'] = 'hstpeft.TwoBranchClsHead'
    check(model, 'mmpretrain')


def test_backbone_of_somebody_else_is_left_alone():
    model = nn.Module()
    model.backbone, model.decode_head = nn.Conv2d(3, 8, 1), nn.Conv2d(9, 9, 1)
    check_channels(model)


def test_runner_and_api_check_what_they_build(tmp_path):
    pytest.importorskip('mmseg.models')
    model = segmentor(fpn([256, 512, 1024, 2048]), backbone=backbone_config(trunk_config(None)))
    cfg = config(tmp_path / 'work', seg_dataset(write_segmentation(tmp_path)), model=model)
    cfg.default_scope = 'mmseg'
    for build in (build_runner, init_model):
        with pytest.raises(UserError, match=r'^model\.neck\.in_channels \[256, 512, 1024, 2048\] '):
            build(cfg)
