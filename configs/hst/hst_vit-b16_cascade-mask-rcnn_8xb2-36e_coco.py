_base_ = [
    '../_base_/tasks/cascade-mask-rcnn.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/hst-dense.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/detection_3x.py',
    '../_base_/default_runtime_mmdet.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(in_channels=_base_.tuner.side_dims),
    roi_head=dict(
        bbox_head=[
            dict(head, num_classes=_base_.num_classes) for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
