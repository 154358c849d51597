# ADE20K, 150 classes, crops of 512 x 512; label 0 of the files is "other" and ignored.
#   ADE20K_ROOT   folder with images/{training,validation} and annotations/{training,validation}
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
num_classes = 150
crop_size = (512, 512)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='hstpeft.CheckSegMap', num_classes=num_classes),
]
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs'),
]
# The ground truth is loaded after the resize, for it keeps its size. mmseg's inference functions drop
# it by this very name, without a prefix.
test_pipeline = [
    load[0],
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    *load[1:],
    dict(type='mmseg.PackSegInputs'),
]
dataset = dict(type='mmseg.ADE20KDataset', data_root=data_root)
loader = dict(num_workers=4, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
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
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
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
