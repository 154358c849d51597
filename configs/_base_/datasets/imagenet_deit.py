# ImageNet-1k with the augmentation of DeiT. IMAGENET_ROOT: folder with train/ and val/, a folder a class
# in each.
_base_ = './common/deit.py'
num_classes = 1000
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
crop, flip, augment, erase, pack = _base_.train_pipeline
# Images are BGR here, and so are these colours.
augment = dict(augment, hparams=dict(augment.hparams, pad_val=augment.hparams.pad_val[::-1]))
erase = dict(erase, fill_color=erase.fill_color[::-1], fill_std=erase.fill_std[::-1])
train_pipeline = [load, crop, flip, augment, erase, pack]
test_pipeline = [load, *_base_.test_pipeline]
dataset = dict(type='mmpretrain.ImageNet', data_root='{{$IMAGENET_ROOT:data/imagenet}}')
train_dataloader = dict(num_workers=10, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(num_workers=10, dataset=dict(split='val', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
del load, crop, flip, augment, erase, pack, dataset
