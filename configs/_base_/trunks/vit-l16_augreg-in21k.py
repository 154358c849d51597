_base_ = './vit-b16_augreg-in21k.py'
trunk = dict(arch='vit_large_patch16_224')
embed_dims = 1024
