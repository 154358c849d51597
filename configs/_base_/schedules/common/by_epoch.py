# What every schedule of epochs shares: it logs, saves and validates by epochs.
optim_wrapper = dict(constructor='hstpeft.DeltaOptimWrapperConstructor')
train_cfg = dict(by_epoch=True)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='hstpeft.SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
log_processor = dict(by_epoch=True)
