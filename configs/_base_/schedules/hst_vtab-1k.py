# The official recipe of HST on VTAB-1k (train_scripts of AFeng-x/HST): AdamW, 100 epochs and 10 more
# at the last rate, 10 epochs of warm-up, cosine. Trained on 2 GPUs x 32. A row is
# (lr, weight decay, drop path of trunk and side network); tasks outside the table take `default`.
# Ours differs in one detail: the cosine starts after the warm-up, timm's under it (below 2.5 %).
_base_ = './common/by_epoch.py'
vtab_recipes = dict(
    caltech101=(1e-3, 5e-4, 0.1),
    cifar=(1e-2, 5e-4, 0.0),
    clevr_count=(1e-3, 5e-4, 0.1),
    clevr_dist=(5e-3, 5e-4, 0.1),
    diabetic_retinopathy=(1e-3, 5e-5, 0.1),
    dmlab=(5e-3, 5e-4, 0.1),
    dsprites_loc=(5e-3, 5e-4, 0.1),
    dsprites_ori=(1e-3, 5e-4, 0.1),
    dtd=(1e-2, 5e-4, 0.0),
    eurosat=(1e-3, 5e-4, 0.1),
    kitti=(5e-3, 5e-2, 0.1),
    oxford_flowers102=(1e-3, 5e-5, 0.0),
    oxford_iiit_pet=(1e-2, 5e-4, 0.0),
    patch_camelyon=(5e-3, 5e-4, 0.1),
    resisc45=(5e-3, 5e-4, 0.0),
    smallnorb_azi=(1e-3, 5e-4, 0.1),
    smallnorb_ele=(1e-3, 5e-2, 0.2),
    sun397=(1e-2, 5e-5, 0.0),
    svhn=(1e-2, 5e-5, 0.1),
    default=(5e-3, 5e-4, 0.0),
)
lr, weight_decay, drop_path_rate = vtab_recipes.get('{{$VTAB_TASK:cifar}}', vtab_recipes['default'])
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-7 / lr, begin=0, end=10),
    dict(type='CosineAnnealingLR', eta_min=1e-8, T_max=90, begin=10, end=100),
]
train_cfg = dict(max_epochs=110, val_interval=10)
auto_scale_lr = dict(base_batch_size=64)
del lr, weight_decay
