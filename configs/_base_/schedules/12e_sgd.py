# For small machines and heads that AdamW overfits: 12 epochs, one of them warm-up, then cosine per
# step to 0.
optim_wrapper = dict(
    constructor='hstpeft.DeltaOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.0),
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
