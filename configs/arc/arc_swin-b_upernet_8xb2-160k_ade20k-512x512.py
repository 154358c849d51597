_base_ = [
    '../_base_/tasks/upernet.py',
    '../_base_/trunks/swin-b_ms-in22k.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_160k.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(
        trunk=_base_.trunk,
        tuner=_base_.tuner,
        out_type='featmap',
        out_indices=[0, 1, 2, 3],
        out_norm=True,
    ),
    decode_head=dict(in_channels=_base_.stage_dims, num_classes=_base_.num_classes),
    auxiliary_head=dict(in_channels=_base_.stage_dims[2], num_classes=_base_.num_classes),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(341, 341)),
)
