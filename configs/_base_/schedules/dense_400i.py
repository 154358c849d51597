# dense_300i.py with 400 iterations, of batches of 2.
_base_ = './dense_300i.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=40, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=360, begin=40, end=400, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=400)
auto_scale_lr = dict(base_batch_size=2)
