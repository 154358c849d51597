_base_ = './sa2vp_vit-b16_1xb64-100e_vtab-1k.py'
model = dict(backbone=dict(tuner=dict(accelerated=True)))
