_base_ = [
    '../_base_/tasks/cls-hma.py',
    '../_base_/trunks/vit-ti16_augreg-in21k-in1k.py',
    '../_base_/tuners/frozen.py',
    '../_base_/datasets/vtab-1k.py',
    '../_base_/schedules/12e_sgd.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),
    # From zero the memories of a class would stay equal to each other.
    head=dict(
        num_classes=_base_.num_classes, in_channels=_base_.embed_dims, global_memory_init='normal'
    ),
)
