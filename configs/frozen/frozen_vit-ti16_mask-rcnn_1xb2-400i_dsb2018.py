_base_ = [
    '../_base_/tasks/mask-rcnn-small.py',
    '../_base_/trunks/vit-ti16_augreg-in21k-in1k.py',
    '../_base_/necks/simple-feature-pyramid.py',
    '../_base_/datasets/dsb2018.py',
    '../_base_/schedules/dense_400i.py',
    '../_base_/default_runtime_mmdet.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    # No part, so that the leaf that inherits this one may name the part of another tuner.
    backbone=dict(trunk=_base_.trunk, tuner=dict(type='hstpeft.FrozenTuner'), out_type='featmap'),
    neck=dict(
        _delete_=True,
        **_base_.neck,
        in_channels=_base_.embed_dims,
        out_channels=_base_.model.neck.out_channels,
        num_outs=_base_.model.neck.num_outs,
    ),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
