# AIMv2, https://arxiv.org/abs/2411.14402: no class token. The weights are under Apple's sample code licence.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.ViTTrunk', arch='aimv2_large_patch14_224', weights='apple_pt')
embed_dims = 1024
img_norm = _base_.clip_norm
