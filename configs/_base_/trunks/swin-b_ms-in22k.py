# A timm tag is downloaded on first use; Microsoft's swin_base_patch4_window7_224_22k.pth does as well:
# --cfg-options model.backbone.trunk.weights=FILE (.pth, .safetensors)
trunk = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224', weights='ms_in22k')
img_norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
