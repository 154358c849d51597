# Full fine-tuning on small machines: 12 epochs, one of them warm-up, then cosine per step to 0. A
# pre-trained trunk is forgotten at the rates that suit a tuner, so this one is 50 times lower.
optim_wrapper = dict(
    constructor='hstpeft.DeltaOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=5e-2),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=0.0, T_max=11, begin=1, end=12, convert_to_iter_based=True
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=12)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)
