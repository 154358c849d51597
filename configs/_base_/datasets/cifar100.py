# CIFAR-100 at 224 x 224 with timm's default augmentation; mmpretrain's data set downloads it. Its
# images are RGB already, so a leaf sets to_rgb=False.
_base_ = './common/classification.py'
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
        hparams=dict(pad_val=[127] * 3, interpolation='bicubic'),
    ),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
dataset = dict(type='mmpretrain.CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=dict(split='train', pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(split='test', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
del dataset, train_pipeline, test_pipeline
