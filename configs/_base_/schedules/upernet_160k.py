# Ours: HST's own is not published. ViT-Adapter's UperNet schedule (https://arxiv.org/abs/2205.08534), without
# its layer decay, for the trunk is frozen.
_base_ = './common/by_iteration.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
auto_scale_lr = dict(base_batch_size=16)
