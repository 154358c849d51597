_base_ = [
    '../_base_/tasks/cls-hma.py',
    '../_base_/trunks/vit-b32_augreg-in21k.py',
    '../_base_/tuners/frozen.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/hma_1000step.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.embed_dims),
)
train_dataloader = dict(batch_size=128, sampler=dict(type='InfiniteSampler'))
