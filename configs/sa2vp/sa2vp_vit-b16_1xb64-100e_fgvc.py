_base_ = [
    '../_base_/tasks/cls-two-branch.py',
    '../_base_/trunks/vit-b16_augreg-in21k.py',
    '../_base_/tuners/sa2vp.py',
    '../_base_/datasets/fgvc_crop.py',
    '../_base_/schedules/sa2vp_fgvc.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(
        trunk=dict(_base_.trunk, arch_options=dict(pos_drop_rate=0.1), mlp_drop_rate=0.1),
        tuner=dict(
            _base_.tuner,
            inner_dims=_base_.inner_dims,
            mixing_weight=_base_.mixing_weight,
            drop_rate=0.1,
        ),
        out_type='cls_token',
    ),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.embed_dims),
)
train_dataloader = dict(batch_size=_base_.batch_size)
