_base_ = [
    '../_base_/tasks/semantic-fpn.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/hst-dense.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/semantic-fpn_80k.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(in_channels=_base_.tuner.side_dims),
    decode_head=dict(num_classes=_base_.num_classes),
)
train_dataloader = dict(batch_size=4)
