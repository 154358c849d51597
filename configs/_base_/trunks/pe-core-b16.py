# Perception Encoder (core), https://arxiv.org/abs/2504.13181; its pooling head is left out.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.EvaTrunk', arch='vit_pe_core_base_patch16_224', weights='fb')
embed_dims = 768
img_norm = _base_.inception_norm
