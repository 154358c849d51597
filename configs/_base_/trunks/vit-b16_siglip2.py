# SigLIP 2, https://arxiv.org/abs/2502.14786: no class token; its pooling head is left out.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_siglip_224', weights='v2_webli')
embed_dims = 768
img_norm = _base_.inception_norm
