# The official "repblock": ViT-B/16 of ImageNet-21k, AdamW with lr 1e-3 and weight decay 1e-4 on all
# that is trained, 100 epochs of batch 64, cosine to 1e-5 after 10 epochs of warm-up from 1e-6,
# drop_path_rate 0.1 in the trunk. Images are only resized; mean and std are ImageNet's. The scale
# is chosen from 0.1, 0.5, 1, 5 and 10 by data set; positions=['attention'] is "repattn".
tuner = dict(
    type='hstpeft.RepAdapterTuner',
    positions=['attention', 'mlp'],
    adapter_dims=8,
    num_groups=2,
    scale=1.0,
    drop_rate=0.1,
)
