# COCO 2017, 80 classes, boxes; images fit into 1333 x 800.
#   COCO_ROOT   folder with annotations/instances_{train,val}2017.json, train2017 and val2017
_base_ = './common/detection.py'
data_root = '{{$COCO_ROOT:data/coco}}'
num_classes = 80
resize = dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True)
load, load_boxes, *_, pack = _base_.train_pipeline
train_pipeline = [load, load_boxes, resize, dict(type='mmdet.RandomFlip', prob=0.5), pack]
load, _, *rest = _base_.test_pipeline
test_pipeline = [load, resize, *rest]
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(min_size=32),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler'),
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
# The shorter side from 480 to 800, for half of the images after a crop (the augmentation of DETR,
# https://arxiv.org/abs/2005.12872); coco_ms.py and coco_instance_ms.py take it.
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
del load, load_boxes, _, pack, rest, sides, resize, crop
