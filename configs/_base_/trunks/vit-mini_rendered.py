# A small ViT that the project pre-trained on another task of its renderer (projects/quickstart).
_base_ = '../img_norms.py'
embed_dims = 96
trunk = dict(
    type='hstpeft.ViTTrunk',
    arch='vit_tiny_patch16_224',
    arch_options=dict(img_size=64, patch_size=8, embed_dim=embed_dims, depth=8, num_heads=3),
    weights='{{ fileDirname }}/vit-mini_rendered.safetensors',
)
img_norm = _base_.inception_norm
