_base_ = [
    '../_base_/tasks/cls-hma.py',
    '../_base_/trunks/vit-b32_augreg-in21k.py',
    '../_base_/tuners/frozen.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/hma_1000step.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(_base_.img_norm, to_rgb=False),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.embed_dims),
)
# Officially CIFAR-100 is resized and flipped, nothing else.
pipeline = [
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128, sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=pipeline)
)
del pipeline
