_base_ = [
    '../_base_/tasks/cls.py',
    '../_base_/trunks/hvt-s1.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/arc_vtab-1k.py',
    '../_base_/default_runtime.py',
]
# Weights that configs/hvt trained and `tools/delta.py merge` wrote; none were published.
weights = '{{$HVT_WEIGHTS:work_dirs/hvt-s1_8xb128-300e_in1k/trunk.safetensors}}'
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(trunk=dict(**_base_.trunk, weights=weights), tuner=_base_.tuner),
    head=dict(
        num_classes=_base_.num_classes,
        in_channels=_base_.embed_dims,
        # The method starts with a head of zeros.
        init_cfg=dict(_delete_=True, type='Constant', layer='Linear', val=0.0),
    ),
)
del weights
