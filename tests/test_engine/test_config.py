"""Overrides of keys that a leaf has copied elsewhere: the message names where they went."""

import pytest
from mmengine.config import Config

from hstpeft.engine.config import check_override
from hstpeft.errors import UserError

BACKBONE = dict(type='hstpeft.TunedBackbone', trunk=dict(), tuner=dict())
HEADS = {
    'classification': (dict(head=dict(num_classes=3)), ['model.head.num_classes']),
    'segmentation': (
        dict(decode_head=dict(num_classes=3), auxiliary_head=[dict(num_classes=3)]),
        ['model.decode_head.num_classes', 'model.auxiliary_head.0.num_classes'],
    ),
    'single-stage detection': (
        dict(bbox_head=dict(num_classes=3)),
        ['model.bbox_head.num_classes'],
    ),
    'two-stage detection': (
        dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3))),
        ['model.roi_head.bbox_head.num_classes', 'model.roi_head.mask_head.num_classes'],
    ),
}


def make(heads: dict, **parts) -> Config:
    model = dict(backbone=BACKBONE, data_preprocessor=dict(mean=[0.0]), **heads)
    composed = dict(num_classes=3, img_norm=dict(mean=[0.0]), trunk=dict(), tuner=dict())
    return Config(dict(model=model, **composed, **parts))


def refusal(cfg: Config, key: str) -> str:
    with pytest.raises(UserError, match=f'^--cfg-options {key} would change nothing') as error:
        check_override(cfg, key)
    return str(error.value).rpartition(': ')[2]


@pytest.mark.parametrize('task', HEADS)
def test_class_count_of_every_task_is_found_where_its_heads_have_it(task):
    heads, keys = HEADS[task]
    assert refusal(make(heads), 'num_classes') == 'set ' + ' and '.join(keys)
    for key in keys:
        check_override(make(heads), key)


def test_class_count_of_data_sets_and_transforms_is_named_too():
    step = dict(type='hstpeft.CheckSegMap', num_classes=3)
    loader = dict(dataset=dict(type='mmseg.BaseSegDataset', pipeline=[dict(type='Resize'), step]))
    cfg = make(dict(decode_head=dict(num_classes=3)), train_dataloader=loader)
    assert refusal(cfg, 'num_classes') == (
        'set model.decode_head.num_classes and train_dataloader.dataset.pipeline.1.num_classes'
    )


def test_ignored_label_is_found_in_losses_padding_transforms_and_metrics():
    cfg = make(
        dict(decode_head=dict(ignore_index=11)),
        ignore_index=11,
        train_dataloader=dict(dataset=dict(pipeline=[dict(type='X', ignore_index=11)])),
        val_evaluator=dict(type='mmseg.IoUMetric', ignore_index=11),
        test_evaluator=[dict(type='Nothing'), dict(type='mmseg.IoUMetric', ignore_index=11)],
    )
    cfg.model.data_preprocessor.seg_pad_val = 11
    assert refusal(cfg, 'ignore_index') == 'set ' + ' and '.join(
        [
            'model.decode_head.ignore_index',
            'model.data_preprocessor.seg_pad_val',
            'train_dataloader.dataset.pipeline.0.ignore_index',
            'val_evaluator.ignore_index',
            'test_evaluator.1.ignore_index',
        ]
    )


@pytest.mark.parametrize(
    ('key', 'target'),
    [
        ('img_norm.mean', 'model.data_preprocessor.mean'),
        ('trunk.weights', 'model.backbone.trunk.weights'),
        ('tuner', 'model.backbone.tuner'),
    ],
)
def test_parts_of_the_model_are_named_with_what_follows(key, target):
    assert refusal(make({}), key) == f'set {target}'


WIDTHS = {
    'classification': (dict(head=dict(in_channels=192)), 'embed_dims', 192, ['head.in_channels']),
    'detection on one map': (
        dict(
            neck=dict(in_channels=192, out_channels=128),
            rpn_head=dict(in_channels=128),
            bbox_head=dict(in_channels=128),
        ),
        'embed_dims', 192, ['neck.in_channels'],
    ),
    'segmentation on one map': (
        dict(
            neck=dict(in_channels=768, out_channels=768),
            decode_head=dict(in_channels=[768] * 4, channels=512),
        ),
        'embed_dims', 768,
        ['neck.in_channels', 'decode_head.in_channels', 'neck.out_channels'],
    ),
    'segmentation on stages': (
        dict(decode_head=dict(in_channels=[8, 16]), auxiliary_head=dict(in_channels=8)),
        'stage_dims', [8, 16], ['decode_head.in_channels', 'auxiliary_head.in_channels'],
    ),
    'detection on stages': (
        dict(neck=dict(in_channels=[8, 16]), rpn_head=dict(in_channels=16)),
        'stage_dims', [8, 16], ['neck.in_channels'],
    ),
}  # fmt: skip


@pytest.mark.parametrize('task', WIDTHS)
def test_width_of_a_trunk_is_found_where_neck_and_heads_have_it(task):
    parts, key, width, keys = WIDTHS[task]
    cfg = make(parts, **{key: width})
    assert refusal(cfg, key) == 'set ' + ' and '.join(f'model.{name}' for name in keys)


def test_width_of_a_trunk_is_not_that_of_a_side_network():
    cfg = make(dict(head=dict(in_channels=72)), embed_dims=192)
    cfg.model.backbone.tuner = dict(side_dims=[32, 48, 64, 72])
    assert refusal(cfg, 'embed_dims').endswith('that were made from it')


def test_a_neck_and_a_tuner_without_a_part_are_named():
    cfg = make(dict(neck=dict(type='FPN')), neck=dict(type='FPN'))
    assert refusal(cfg, 'neck.num_outs') == 'set model.neck.num_outs'
    cfg.pop('tuner')
    assert refusal(cfg, 'tuner.rank') == 'set model.backbone.tuner.rank'


def test_class_count_that_no_part_has_gets_the_general_hint():
    hint = refusal(make({}), 'num_classes')
    assert hint.endswith('set the keys of model, data loaders or optimiser that were made from it')
