_base_ = [
    '../_base_/tasks/mask-rcnn-small.py',
    '../_base_/trunks/vit-ti16_augreg-in21k-in1k.py',
    '../_base_/tuners/hst-dense.py',
    '../_base_/datasets/dsb2018.py',
    '../_base_/schedules/dense_400i.py',
    '../_base_/default_runtime_mmdet.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(in_channels=_base_.tuner.side_dims),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
