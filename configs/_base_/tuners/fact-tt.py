# The official setting: ViT-B/16 of ImageNet-21k, AdamW with lr 1e-3 and weight decay 1e-4 on all
# that is trained, 100 epochs of batch 64, cosine to 1e-5 after 10 epochs of warm-up from 1e-6,
# drop_path_rate 0.1 in the trunk. Images are only resized; mean and std are ImageNet's. Rank (4, 8
# or 16) and scale (0.01 to 100, by tens) are chosen by data set.
tuner = dict(type='hstpeft.FacTTuner', form='tt', rank=16, scale=1.0, drop_rate=0.1)
