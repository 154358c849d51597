# DINOv2 with four registers, https://arxiv.org/abs/2309.16588. Its position embedding is that of 518 x 518 pixels
# and is resampled to whatever comes; sides are padded to multiples of 14.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_small_patch14_reg4_dinov2', weights='lvd142m')
embed_dims = 384
img_norm = _base_.imagenet_norm
