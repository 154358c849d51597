_base_ = ['../frozen/frozen_vit-ti16_atss_1xb4-300i_bccd.py', '../_base_/tuners/arc.py']
model = dict(backbone=dict(tuner=_base_.tuner))
