# OpenAI's CLIP, https://arxiv.org/abs/2103.00020, with the activation that it was trained with (QuickGELU).
_base_ = '../img_norms.py'
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_clip_quickgelu_224', weights='openai')
embed_dims = 768
img_norm = _base_.clip_norm
