_base_ = './vit-b16_augreg-in21k.py'
trunk = dict(arch='vit_tiny_patch16_224', weights='augreg_in21k_ft_in1k')
embed_dims = 192
