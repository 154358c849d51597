# A data set in the format of COCO: annotations/{train,val}.json and the images in folders of these names.
# The part that inherits this sets data_root and metainfo of the data sets, the files of the evaluators,
# and the pipelines, whose second and third steps depend on masks and size.
load_boxes = dict(type='mmdet.LoadAnnotations', with_bbox=True)
load_masks = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    load_boxes,
    dict(
        type='RandomResize',
        ratio_range=(0.75, 1.25),
        keep_ratio=True,
        resize_type='mmdet.Resize',
    ),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', keep_ratio=True),
    load_boxes,
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type='mmdet.CocoDataset',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True),
    ),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type='mmdet.CocoDataset',
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.CocoMetric', metric='bbox')
test_evaluator = val_evaluator
del loader
