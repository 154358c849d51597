# Without pooling: a DeiT-S that averages its patches instead of having a class token.
# No weights were published: train them (configs/hvt), or give a file as
# --cfg-options model.backbone.trunk.weights=FILE (.pth, .safetensors)
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.HVTTrunk', arch='hvt_s_0')
embed_dims = 384
img_norm = _base_.imagenet_norm
