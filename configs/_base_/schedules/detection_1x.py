# Ours: HST's own is not published. ViT-Adapter's AdamW (https://arxiv.org/abs/2205.08534) on the 1x schedule of
# mmdet.
_base_ = './common/by_epoch.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=500, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(max_epochs=12, val_interval=1)
auto_scale_lr = dict(base_batch_size=16)
