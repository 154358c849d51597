# EVA-02, https://arxiv.org/abs/2303.11331: masked image modelling alone, no labels.
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.EvaTrunk', arch='eva02_base_patch14_224', weights='mim_in22k')
embed_dims = 768
img_norm = _base_.clip_norm
