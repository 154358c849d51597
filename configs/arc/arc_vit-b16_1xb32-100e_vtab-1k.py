_base_ = [
    '../_base_/tasks/cls.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/arc.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/arc_vtab-1k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    # The official recipe takes ImageNet's mean and deviation, not the weights' own (127.5).
    data_preprocessor=_base_.imagenet_norm,
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner, out_type='cls_token'),
    head=dict(
        num_classes=_base_.num_classes,
        in_channels=_base_.embed_dims,
        # The method starts with a head of zeros.
        init_cfg=dict(_delete_=True, type='Constant', layer='Linear', val=0.0),
    ),
)
