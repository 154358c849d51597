# DINOv3, https://arxiv.org/abs/2508.10104. The weights are under Meta's DINOv3 licence, which is no open-source one.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.EvaTrunk', arch='vit_small_patch16_dinov3', weights='lvd1689m')
embed_dims = 384
img_norm = _base_.imagenet_norm
