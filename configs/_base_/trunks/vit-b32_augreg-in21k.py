_base_ = './vit-b16_augreg-in21k.py'
trunk = dict(arch='vit_base_patch32_224')
