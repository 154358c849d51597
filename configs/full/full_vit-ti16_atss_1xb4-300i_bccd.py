_base_ = ['../frozen/frozen_vit-ti16_atss_1xb4-300i_bccd.py', '../_base_/tuners/full.py']
model = dict(backbone=dict(tuner=_base_.tuner))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
