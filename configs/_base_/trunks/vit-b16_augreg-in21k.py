# A timm tag is downloaded on first use; any local file of these weights does as well:
# --cfg-options model.backbone.trunk.weights=FILE (.npz, .pth, .safetensors)
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', weights='augreg_in21k')
embed_dims = 768
img_norm = _base_.inception_norm
