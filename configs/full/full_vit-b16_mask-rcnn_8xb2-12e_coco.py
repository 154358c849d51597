_base_ = [
    '../_base_/tasks/mask-rcnn.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/full.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/default_runtime_mmdet.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(
        trunk=_base_.trunk, tuner=_base_.tuner, out_type='featmap', out_indices=[2, 5, 8, 11]
    ),
    neck=dict(
        _delete_=True,
        type='hstpeft.SimpleFeaturePyramid',
        in_channels=768,
        out_channels=256,
        num_outs=5,
    ),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
