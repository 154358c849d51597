_base_ = [
    '../_base_/tasks/cls-two-branch.py',
    '../_base_/trunks/swin-b_ms-in22k.py',
    '../_base_/tuners/sa2vp.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/sa2vp_swin_vtab-1k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(
        trunk=dict(_base_.trunk, arch_options=dict(drop_path_rate=0.2)),
        tuner=dict(_base_.tuner, inner_dims=_base_.inner_dims, mixing_weight=_base_.mixing_weight),
        out_type='avg_featmap',
    ),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.stage_dims[-1]),
)
# 40 for specialised and structured tasks.
train_dataloader = dict(batch_size=_base_.batch_size)
