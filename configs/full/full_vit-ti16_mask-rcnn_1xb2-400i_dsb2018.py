_base_ = ['../frozen/frozen_vit-ti16_mask-rcnn_1xb2-400i_dsb2018.py', '../_base_/tuners/full.py']
model = dict(backbone=dict(tuner=_base_.tuner))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
