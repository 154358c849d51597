_base_ = ['../frozen/frozen_vit-ti16_semantic-fpn_1xb4-300i_camvid.py', '../_base_/tuners/arc.py']
model = dict(backbone=dict(tuner=_base_.tuner))
