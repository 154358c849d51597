_base_ = [
    '../_base_/tasks/semantic-fpn-small.py',
    '../_base_/trunks/vit-ti16_augreg-in21k-in1k.py',
    '../_base_/tuners/hst-dense.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/dense_300i.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(
        mean=_base_.img_norm.mean, std=_base_.img_norm.std, seg_pad_val=_base_.ignore_index
    ),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(in_channels=_base_.tuner.side_dims),
    decode_head=dict(num_classes=_base_.num_classes, ignore_index=_base_.ignore_index),
)
