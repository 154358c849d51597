_base_ = [
    '../_base_/tasks/cls.py',
    '../_base_/trunks/vit-mini_rendered.py',
    '../_base_/tuners/frozen.py',
    '../_base_/datasets/rendered.py',
    '../_base_/schedules/linear_10e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner, out_type='cls_token'),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.embed_dims),
)
train_cfg = dict(val_interval=1)
