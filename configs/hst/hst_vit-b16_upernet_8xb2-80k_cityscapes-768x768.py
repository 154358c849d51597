_base_ = [
    '../_base_/tasks/upernet.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/hst-dense.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/upernet_80k.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    decode_head=dict(in_channels=_base_.tuner.side_dims, num_classes=_base_.num_classes),
    auxiliary_head=dict(in_channels=_base_.tuner.side_dims[2], num_classes=_base_.num_classes),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(512, 512)),
)
