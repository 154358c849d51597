_base_ = './hst_vit-b16_2xb32-110e_vtab-1k.py'
model = dict(backbone=dict(trunk=dict(arch='vit_small_patch16_224')))
