_base_ = './vit-s16_dinov3.py'
trunk = dict(arch='vit_base_patch16_dinov3')
embed_dims = 768
