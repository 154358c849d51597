# What every schedule of iterations shares; it sets the interval of its checkpoints.
_base_ = './by_epoch.py'
train_cfg = dict(by_epoch=False)
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False))
log_processor = dict(by_epoch=False)
