# The official recipe of HST on the fine-grained sets: 4 GPUs x 32, drop path 0. A row is
# (lr, weight decay); with a MAE trunk the rate is 1e-3 on all five.
_base_ = './common/by_epoch.py'
fgvc_recipes = dict(
    cub=(1e-3, 5e-2),
    nabirds=(5e-4, 5e-2),
    flowers=(1e-3, 5e-5),
    cars=(5e-3, 5e-2),
    dogs=(5e-3, 5e-2),
)
lr, weight_decay = fgvc_recipes['{{$FGVC_TASK:cub}}']
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-7 / lr, begin=0, end=10),
    dict(type='CosineAnnealingLR', eta_min=1e-8, T_max=90, begin=10, end=100),
]
train_cfg = dict(max_epochs=110, val_interval=10)
auto_scale_lr = dict(base_batch_size=128)
del lr, weight_decay
