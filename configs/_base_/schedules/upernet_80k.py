# As upernet_160k.py, half as long.
optim_wrapper = dict(
    constructor='hstpeft.DeltaOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=80000, by_epoch=False),
]
train_cfg = dict(by_epoch=False, max_iters=80000, val_interval=8000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=16)
