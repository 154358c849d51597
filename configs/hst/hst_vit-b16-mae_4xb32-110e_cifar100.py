_base_ = './hst_vit-b16_4xb32-110e_cifar100.py'
model = dict(
    data_preprocessor=dict(_base_.imagenet_norm, to_rgb=False),
    backbone=dict(trunk=dict(weights='mae')),
)
