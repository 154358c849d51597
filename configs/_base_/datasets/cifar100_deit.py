# CIFAR-100 at 224 x 224 with the augmentation of DeiT; mmpretrain's data set downloads it. Its images are
# RGB already, so a leaf sets to_rgb=False.
_base_ = './common/deit.py'
num_classes = 100
dataset = dict(type='mmpretrain.CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dict(split='test', **dataset))
test_dataloader = val_dataloader
del dataset
