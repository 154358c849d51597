_base_ = [
    '../_base_/tasks/cls.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/hst.py',
    '../_base_/necks/pooled-norm.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/hst_vtab-1k.py',
    '../_base_/default_runtime.py',
]
drop_path = _base_.drop_path_rate
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(
        trunk=dict(**_base_.trunk, arch_options=dict(drop_path_rate=drop_path)),
        tuner=dict(**_base_.tuner, side_drop_path_rate=drop_path),
    ),
    neck=dict(**_base_.neck, in_channels=_base_.tuner.side_dims[-1]),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.tuner.side_dims[-1]),
)
del drop_path
