# The official recipe of HVT, which is DeiT's: AdamW, 5e-4 for every 512 images of a step (8 GPUs x
# 128 here), 300 epochs, 5 of them warm-up from 1e-6, then cosine to 1e-5, per epoch; no clipping.
# Vectors and position embeddings do not decay.
_base_ = './common/by_epoch.py'
drop_path_rate = 0.1
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.025),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=0.0),
)
param_scheduler = [
    # The warm-up ends where the cosine begins: in epoch 5, by then at the full rate.
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min=1e-5, T_max=295, begin=5, end=300),
]
train_cfg = dict(max_epochs=300, val_interval=10)
auto_scale_lr = dict(base_batch_size=1024)
