# No weights were published: train them (configs/hvt), or give a file as
# --cfg-options model.backbone.trunk.weights=FILE (.pth, .safetensors)
trunk = dict(type='hstpeft.HVTTrunk', arch='hvt_s_3')
img_norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
