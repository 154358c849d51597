# For schedules of iterations; a leaf may set another checkpoint interval.
_base_ = './default_runtime_mmdet.py'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=8000)
)
log_processor = dict(by_epoch=False)
