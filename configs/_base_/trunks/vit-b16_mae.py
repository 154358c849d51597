# A timm tag is downloaded on first use; the official mae_pretrain_vit_*.pth do as well:
# --cfg-options model.backbone.trunk.weights=FILE (.npz, .pth, .safetensors)
_base_ = './vit-b16_augreg-in21k.py'
trunk = dict(weights='mae')
img_norm = _base_.imagenet_norm
