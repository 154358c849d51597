# The official recipe of ARC on VTAB-1k with a ViT, one for all tasks: AdamW, 100 epochs, 10 of them
# warm-up, then cosine, per step; everything that is trained decays (here by 0). The official loop
# stops an epoch's last step early.
_base_ = './common/by_epoch.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.0),
    paramwise_cfg=dict(flat_decay_mult=1.0, token_decay_mult=1.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=10, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=90,
        begin=10,
        end=100,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=32)
