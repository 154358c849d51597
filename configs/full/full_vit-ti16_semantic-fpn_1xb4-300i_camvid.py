_base_ = ['../frozen/frozen_vit-ti16_semantic-fpn_1xb4-300i_camvid.py', '../_base_/tuners/full.py']
model = dict(backbone=dict(tuner=_base_.tuner))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
