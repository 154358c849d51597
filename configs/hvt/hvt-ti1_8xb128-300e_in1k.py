_base_ = [
    '../_base_/tasks/cls-mixup.py',
    '../_base_/trunks/hvt-ti1.py',
    '../_base_/tuners/full.py',
    '../_base_/datasets/imagenet_deit.py',
    '../_base_/schedules/hvt_300e.py',
    '../_base_/default_runtime.py',
]
drop_path = _base_.drop_path_rate
model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, **_base_.img_norm),
    backbone=dict(
        trunk=dict(**_base_.trunk, arch_options=dict(drop_path_rate=drop_path)),
        tuner=_base_.tuner,
    ),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.embed_dims),
)
del drop_path
