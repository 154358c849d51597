# Linear probe: 10 epochs, cosine per step to 0.
_base_ = './common/by_epoch.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-2, weight_decay=5e-4),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=10, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=10, val_interval=10)
auto_scale_lr = dict(base_batch_size=32)
