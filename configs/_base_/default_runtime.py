# What every host and every schedule shares; default_hooks and log_processor are the schedule's, which
# knows whether it counts epochs or iterations.
default_scope = 'mmpretrain'
# `PROMISED_HOOKS` of our own runner, for those who train with a host's tools; a test compares them.
custom_hooks = [
    dict(type='hstpeft.CheckpointGuardHook'),
    dict(type='hstpeft.RNGStateHook'),
    dict(type='hstpeft.ParameterTableHook'),
    dict(type='hstpeft.DeltaHook'),
    dict(type='hstpeft.DataCheckHook'),
    dict(type='hstpeft.FiniteNumbersHook'),
    dict(type='hstpeft.SkippedStepsHook'),
    dict(type='hstpeft.UnusedParametersHook'),
    dict(type='hstpeft.BufferSyncHook'),
    dict(type='hstpeft.ResumeHook'),
    dict(type='hstpeft.InterruptHook'),
    dict(type='hstpeft.SealHook'),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=1800),
)
model_wrapper_cfg = dict(type='hstpeft.DeviceAwareDDP')
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmpretrain.UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=42, diff_rank_seed=True, deterministic=False)
