_base_ = [
    '../../configs/_base_/tasks/semantic-fpn-small.py',
    '../../configs/_base_/trunks/vit-mini_rendered.py',
    '../../configs/_base_/tuners/hst.py',
    '../../configs/_base_/datasets/custom_segmentation.py',
    '../../configs/_base_/schedules/12e_adamw.py',
    '../../configs/_base_/default_runtime_mmseg.py',
]
model = dict(
    data_preprocessor=dict(mean=_base_.img_norm.mean, std=_base_.img_norm.std),
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    neck=dict(in_channels=_base_.tuner.side_dims),
    decode_head=dict(num_classes=_base_.num_classes),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=4)
