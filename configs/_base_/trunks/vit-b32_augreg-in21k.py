# A timm tag is downloaded on first use; any local file of these weights does as well:
# --cfg-options model.backbone.trunk.weights=FILE (.npz, .pth, .safetensors)
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch32_224', weights='augreg_in21k')
img_norm = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
