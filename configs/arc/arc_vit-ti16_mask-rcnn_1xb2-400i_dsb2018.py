_base_ = ['../frozen/frozen_vit-ti16_mask-rcnn_1xb2-400i_dsb2018.py', '../_base_/tuners/arc.py']
model = dict(backbone=dict(tuner=_base_.tuner))
