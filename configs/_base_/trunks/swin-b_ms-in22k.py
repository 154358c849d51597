# A timm tag is downloaded on first use; Microsoft's swin_base_patch4_window7_224_22k.pth does as well:
# --cfg-options model.backbone.trunk.weights=FILE (.pth, .safetensors)
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224', weights='ms_in22k')
stage_dims = [128, 256, 512, 1024]
img_norm = _base_.imagenet_norm
