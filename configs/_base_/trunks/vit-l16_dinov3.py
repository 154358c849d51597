_base_ = './vit-s16_dinov3.py'
trunk = dict(arch='vit_large_patch16_dinov3')
embed_dims = 1024
