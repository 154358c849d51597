_base_ = [
    '../_base_/tasks/mask-rcnn.py',
    '../_base_/trunks/swin-b_ms-in22k.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/default_runtime_mmdet.py',
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
    neck=dict(in_channels=_base_.stage_dims),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
