# Means and deviations of RGB images in 0..255 that pre-trained weights expect.
imagenet_norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
inception_norm = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
clip_norm = dict(
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)
