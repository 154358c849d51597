# ViTDet's pyramid, for a ViT whose tuner gives no maps of several strides. The leaf fills in in_channels,
# and out_channels and levels as the task's FPN has them, in whose place it stands.
neck = dict(type='hstpeft.SimpleFeaturePyramid')
