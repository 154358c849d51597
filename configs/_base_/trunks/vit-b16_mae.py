# A timm tag is downloaded on first use; the official mae_pretrain_vit_*.pth do as well:
# --cfg-options model.backbone.trunk.weights=FILE (.npz, .pth, .safetensors)
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', weights='mae')
img_norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
