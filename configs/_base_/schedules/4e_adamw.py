# For comparisons on small machines: 4 epochs, one of them warm-up, then cosine per step to 0.
_base_ = './12e_adamw.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=0.0, T_max=3, begin=1, end=4, convert_to_iter_based=True
    ),
]
train_cfg = dict(max_epochs=4, val_interval=4)
