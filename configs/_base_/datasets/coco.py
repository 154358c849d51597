# COCO 2017, 80 classes, boxes; images fit into 1333 x 800.
#   COCO_ROOT   folder with annotations/instances_{train,val}2017.json, train2017 and val2017
data_root = '{{$COCO_ROOT:data/coco}}'
num_classes = 80
load = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
]
pack = [dict(type='mmdet.RandomFlip', prob=0.5), dict(type='mmdet.PackDetInputs')]
resize = dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True)
train_pipeline = [*load, resize, *pack]
test_pipeline = [
    load[0],
    resize,
    load[1],
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(type='mmdet.CocoDataset', data_root=data_root)
loader = dict(num_workers=2, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        **dataset,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        **dataset,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric',
    ann_file=f'{data_root}/annotations/instances_val2017.json',
    metric='bbox',
)
test_evaluator = val_evaluator
del load, pack, resize, dataset, loader
