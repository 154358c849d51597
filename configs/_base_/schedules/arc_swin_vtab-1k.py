# The official recipe of ARC on VTAB-1k with a Swin-B: that of the ViT (arc_vtab-1k.py), but for the
# rate and the decay. A row is (lr, weight decay); tasks outside the table take `default`.
_base_ = './arc_vtab-1k.py'
vtab_recipes = dict(
    caltech101=(3e-3, 5e-2),
    cifar=(5e-3, 1e-2),
    clevr_count=(2e-3, 5e-2),
    clevr_dist=(1e-3, 5e-2),
    diabetic_retinopathy=(5e-3, 5e-5),
    dmlab=(5e-3, 1e-2),
    dsprites_loc=(1e-2, 0.0),
    dsprites_ori=(5e-3, 0.0),
    dtd=(5e-3, 5e-2),
    eurosat=(3e-3, 0.0),
    kitti=(1e-2, 0.0),
    oxford_flowers102=(5e-3, 5e-5),
    oxford_iiit_pet=(1e-2, 5e-2),
    patch_camelyon=(5e-3, 5e-5),
    resisc45=(1e-2, 0.0),
    smallnorb_azi=(1e-2, 5e-3),
    smallnorb_ele=(1e-3, 5e-2),
    sun397=(5e-3, 5e-5),
    svhn=(1e-2, 5e-2),
    default=(5e-3, 1e-2),
)
lr, weight_decay = vtab_recipes.get('{{$VTAB_TASK:cifar}}', vtab_recipes['default'])
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=weight_decay))
del lr, weight_decay
