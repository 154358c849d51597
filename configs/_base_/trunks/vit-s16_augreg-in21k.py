_base_ = './vit-b16_augreg-in21k.py'
trunk = dict(arch='vit_small_patch16_224')
embed_dims = 384
