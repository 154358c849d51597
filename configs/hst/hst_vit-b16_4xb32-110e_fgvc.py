_base_ = [
    '../_base_/tasks/cls-mixup.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/hst.py',
    '../_base_/necks/pooled-norm.py',
    '../_base_/datasets/fgvc.py',
    '../_base_/schedules/hst_fgvc.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, **_base_.img_norm),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(**_base_.neck, in_channels=_base_.tuner.side_dims[-1]),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.tuner.side_dims[-1]),
)
