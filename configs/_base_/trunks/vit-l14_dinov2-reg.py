_base_ = './vit-s14_dinov2-reg.py'
trunk = dict(arch='vit_large_patch14_reg4_dinov2')
embed_dims = 1024
