# CIFAR-100 at 224 x 224 with the augmentation of DeiT (imagenet_deit.py); mmpretrain's data set
# downloads it. Its images are RGB already, so a leaf sets to_rgb=False.
num_classes = 100
train_pipeline = [
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[124, 116, 104], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[123.675, 116.28, 103.53],
        fill_std=[58.395, 57.12, 57.375],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
dataset = dict(type='mmpretrain.CIFAR100', data_root='data/cifar100')
loader = dict(
    batch_size=128,
    num_workers=4,
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
    dataset=dict(split='test', test_mode=True, pipeline=test_pipeline, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
del dataset, loader, train_pipeline, test_pipeline
