# detection_1x.py, three times as long.
_base_ = './detection_1x.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=500, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(max_epochs=36, val_interval=1)
