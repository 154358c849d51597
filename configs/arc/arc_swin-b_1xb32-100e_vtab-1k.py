_base_ = [
    '../_base_/tasks/cls.py',
    '../_base_/trunks/swin-b_ms-in22k.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/arc_swin_vtab-1k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(
        # The official Swin runs with these two rates, whatever was configured.
        trunk=dict(**_base_.trunk, arch_options=dict(drop_path_rate=0.1)),
        tuner=dict(_base_.tuner, drop_rate=0.5),
        out_type='avg_featmap',
    ),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.stage_dims[-1]),
)
