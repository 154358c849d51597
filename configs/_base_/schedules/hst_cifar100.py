# The official recipe of HST on the whole CIFAR-100: 4 GPUs x 32.
_base_ = './common/by_epoch.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=5e-2),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=2e-5, begin=0, end=10),
    dict(type='CosineAnnealingLR', eta_min=1e-8, T_max=90, begin=10, end=100),
]
train_cfg = dict(max_epochs=110, val_interval=10)
auto_scale_lr = dict(base_batch_size=128)
