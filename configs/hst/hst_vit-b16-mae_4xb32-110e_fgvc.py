_base_ = './hst_vit-b16_4xb32-110e_fgvc.py'
model = dict(data_preprocessor=_base_.imagenet_norm, backbone=dict(trunk=dict(weights='mae')))
# The official recipe takes this rate for every set when the trunk is MAE's.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
