# ImageNet-1k with the augmentation of DeiT: an epoch shows a third of the images, each three times
# and differently augmented. IMAGENET_ROOT: folder with train/ and val/, a folder a class in each.
num_classes = 1000
# Images are BGR here, and so are these values.
train_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
dataset = dict(type='mmpretrain.ImageNet', data_root='{{$IMAGENET_ROOT:data/imagenet}}')
loader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    dataset=dict(split='train', pipeline=train_pipeline, **dataset),
    sampler=dict(type='mmpretrain.RepeatAugSampler', shuffle=True, num_repeats=3),
    drop_last=True,
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    dataset=dict(split='val', test_mode=True, pipeline=test_pipeline, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
del dataset, loader, train_pipeline, test_pipeline
