# coco.py with multi-scale training: the shorter side from 480 to 800, for half of the images after
# a crop (the augmentation of DETR, https://arxiv.org/abs/2005.12872).
_base_ = './coco.py'
sides = range(480, 801, 32)
resize = dict(
    type='RandomChoiceResize',
    scales=[(1333, side) for side in sides],
    resize_type='mmdet.Resize',
    keep_ratio=True,
)
crop = [
    dict(resize, scales=[(1333, side) for side in (400, 500, 600)]),
    dict(
        type='mmdet.RandomCrop',
        crop_type='absolute_range',
        crop_size=(384, 600),
        allow_negative_crop=True,
    ),
]
multi_scale = dict(type='RandomChoice', transforms=[[resize], [*crop, resize]])
train_pipeline = [*_base_.train_pipeline[:2], multi_scale, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del sides, resize, crop, multi_scale
