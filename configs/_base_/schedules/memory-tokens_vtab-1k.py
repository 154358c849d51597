# HMA's official recipe for what is trained on a frozen ViT (SGD, 1000 steps of 128 images, cosine
# per step to 0, no decay), told in epochs of VTAB-1k: its 1000 images are 7 whole batches, so 143
# epochs are 1001 steps. The official warm-up takes 10 steps, ours an epoch.
optim_wrapper = dict(
    constructor='hstpeft.DeltaOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=142,
        begin=1,
        end=143,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=143, val_interval=143)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
