# The official setting; its trunk is a Swin with detection_style=True. Official recipes, all with AdamW:
# COCO, Swin-B: rate 1e-4, weight decay 0.05, batch 16, 36 epochs, steps at 27 and 33, drop path 0.3.
# ADE20K, Swin-L: rate 3e-4, weight decay 0.01, 160k steps, 1500 of them warm-up, poly, drop path 0.2.
# Classification, Swin-L: rate 3.125e-5 at batch 16, weight decay 0.05, 100 epochs, 20 of them warm-up,
# cosine, gradients clipped at norm 5, drop path 0.3. Norms are not decayed, nor biases in the last.
tuner = dict(type='hstpeft.MonaTuner', adapter_dims=64, drop_rate=0.1)
