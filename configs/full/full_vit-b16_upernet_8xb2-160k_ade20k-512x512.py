_base_ = [
    '../_base_/tasks/upernet.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/full.py',
    '../_base_/necks/simple-feature-pyramid.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_160k.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(
        trunk=_base_.trunk, tuner=_base_.tuner, out_type='featmap', out_indices=[2, 5, 8, 11]
    ),
    neck=dict(**_base_.neck, in_channels=_base_.embed_dims, out_channels=_base_.embed_dims),
    decode_head=dict(in_channels=[_base_.embed_dims] * 4, num_classes=_base_.num_classes),
    auxiliary_head=dict(in_channels=_base_.embed_dims, num_classes=_base_.num_classes),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(341, 341)),
)
