# Images and label maps in two trees of folders. The part that inherits this sets type, data_root and
# prefixes of the data sets, and the pipelines, whose steps depend on classes and size.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # By this bare name mmseg's inference functions drop it; mmseg's default scope finds the same class.
    dict(type='LoadAnnotations'),
    dict(type='hstpeft.CheckSegMap'),
    dict(type='RandomResize', ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='mmseg.RandomCrop', cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PackSegInputs'),
]
# The ground truth is loaded after the resize, for it keeps its size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='hstpeft.CheckSegMap'),
    dict(type='mmseg.PackSegInputs'),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del loader
