_base_ = './hst_vit-b16_2xb32-110e_vtab-1k.py'
model = dict(data_preprocessor=_base_.imagenet_norm, backbone=dict(trunk=dict(weights='mae')))
