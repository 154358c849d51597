# For small machines: 12 epochs, one of them warm-up, then cosine per step to 0.
_base_ = './common/by_epoch.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=5e-4),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=0.0, T_max=11, begin=1, end=12, convert_to_iter_based=True
    ),
]
train_cfg = dict(max_epochs=12, val_interval=12)
auto_scale_lr = dict(base_batch_size=32)
