_base_ = [
    '../_base_/tasks/mask-rcnn-small.py',
    '../_base_/trunks/vit-ti16_augreg-in21k-in1k.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/dsb2018.py',
    '../_base_/schedules/dense_400i.py',
    '../_base_/default_runtime_mmdet_iters.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner, out_type='featmap'),
    neck=dict(
        _delete_=True,
        type='hstpeft.SimpleFeaturePyramid',
        in_channels=192,
        out_channels=128,
        num_outs=5,
    ),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
default_hooks = dict(checkpoint=dict(interval=100))
