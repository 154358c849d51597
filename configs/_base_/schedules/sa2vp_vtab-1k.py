# The official recipe of SA2VP on VTAB-1k with a ViT: AdamW, 100 epochs, 10 of them warm-up from 0,
# then cosine to 1e-7, per step; vectors and biases do not decay, prompts do. A row is (inner size,
# mixing weight, rate, batch); tasks outside the table take `default`.
_base_ = './common/by_epoch.py'
NATURAL, SPECIALISED, STRUCTURED = (8, 0.1, 1e-3, 64), (16, 1.5, 1e-3, 40), (32, 1.5, 1e-3, 40)
vtab_recipes = dict(
    caltech101=NATURAL,
    cifar=NATURAL,
    clevr_count=(32, 1.5, 5e-4, 40),
    clevr_dist=STRUCTURED,
    diabetic_retinopathy=SPECIALISED,
    dmlab=STRUCTURED,
    dsprites_loc=STRUCTURED,
    dsprites_ori=(16, 0.1, 1e-3, 40),
    dtd=NATURAL,
    eurosat=SPECIALISED,
    kitti=STRUCTURED,
    oxford_flowers102=NATURAL,
    oxford_iiit_pet=(8, 0.1, 5e-4, 64),
    patch_camelyon=SPECIALISED,
    resisc45=(16, 0.5, 1e-3, 40),
    smallnorb_azi=STRUCTURED,
    smallnorb_ele=(32, 0.5, 1e-3, 40),
    sun397=NATURAL,
    svhn=(16, 0.5, 1e-3, 64),
    default=NATURAL,
)
inner_dims, mixing_weight, lr, batch_size = vtab_recipes.get(
    '{{$VTAB_TASK:cifar}}', vtab_recipes['default']
)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=lr, weight_decay=1e-4),
    paramwise_cfg=dict(flat_decay_mult=0.0, token_decay_mult=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=10, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-7,
        T_max=90,
        begin=10,
        end=100,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=batch_size)
del NATURAL, SPECIALISED, STRUCTURED, lr
