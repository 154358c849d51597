_base_ = './hst_vit-b16_4xb32-110e_fgvc.py'
model = dict(backbone=dict(trunk=dict(arch='vit_large_patch16_224')))
