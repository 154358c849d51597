_base_ = [
    '../_base_/tasks/mask-rcnn.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/full.py',
    '../_base_/necks/simple-feature-pyramid.py',
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
        **_base_.neck,
        in_channels=_base_.embed_dims,
        out_channels=_base_.model.neck.out_channels,
        num_outs=_base_.model.neck.num_outs,
    ),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
