_base_ = './vit-b16_mae.py'
trunk = dict(arch='vit_large_patch16_224')
embed_dims = 1024
