# Cityscapes, 19 classes, crops of 768 x 768.
#   CITYSCAPES_ROOT   folder with leftImg8bit/{train,val} and gtFine/{train,val} (labelTrainIds)
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
num_classes = 19
crop_size = (768, 768)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='hstpeft.CheckSegMap', num_classes=num_classes),
]
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs'),
]
# The ground truth is loaded after the resize, for it keeps its size. mmseg's inference functions drop
# it by this very name, without a prefix.
test_pipeline = [
    load[0],
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    *load[1:],
    dict(type='mmseg.PackSegInputs'),
]
dataset = dict(type='mmseg.CityscapesDataset', data_root=data_root)
loader = dict(num_workers=4, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del load, dataset, loader
