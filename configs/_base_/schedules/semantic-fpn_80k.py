# Ours: HST's own is not published. AdamW lr 1e-4, weight decay 1e-4, poly 0.9 and 16 images per step as in
# PVT's Semantic FPN (https://arxiv.org/abs/2102.12122), with the warm-up of UperNet's schedule.
_base_ = './common/by_iteration.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=1500, end=80000, by_epoch=False),
]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=16)
