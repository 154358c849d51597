# A small ViT that the project pre-trained on another task of its renderer (projects/quickstart).
trunk = dict(
    type='hstpeft.ViTTrunk',
    arch='vit_tiny_patch16_224',
    arch_options=dict(img_size=64, patch_size=8, embed_dim=96, depth=8, num_heads=3),
    weights='{{ fileDirname }}/vit-mini_rendered.safetensors',
)
img_norm = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
