_base_ = [
    '../_base_/tasks/upernet.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/full.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_160k.py',
    '../_base_/default_runtime_mmseg_iters.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(
        trunk=_base_.trunk, tuner=_base_.tuner, out_type='featmap', out_indices=[2, 5, 8, 11]
    ),
    neck=dict(type='hstpeft.SimpleFeaturePyramid', in_channels=768, out_channels=768),
    decode_head=dict(in_channels=[768] * 4, num_classes=_base_.num_classes),
    auxiliary_head=dict(in_channels=768, num_classes=_base_.num_classes),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(341, 341)),
)
default_hooks = dict(checkpoint=dict(interval=16000))
