# HMA's official recipe: SGD, 1000 steps of 128 images, of them 10 of warm-up, cosine per step to 0.
# This rate is for a frozen trunk; when the trunk is trained it is 3e-3. The official code validates
# every 30 steps and keeps the best; here the last step counts, since the validation loader may read
# the test split.
_base_ = './common/by_iteration.py'
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=10, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=990, begin=10, end=1000, by_epoch=False),
]
train_cfg = dict(max_iters=1000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
auto_scale_lr = dict(base_batch_size=128)
