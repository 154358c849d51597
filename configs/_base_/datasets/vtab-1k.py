# VTAB-1k in the list layout of the PEFT papers: 800 training and 200 validation images per task.
#   VTAB_TASK   name of a task: one of the table below, or any folder with the lists and classes.txt
#   VTAB_ROOT   folder that holds the task folders
# Training is on train800val200; the validation loader reads the test split, as the papers report
# it, so never choose an epoch or an option by it.
import pathlib

_base_ = './common/classification.py'
vtab_task = '{{$VTAB_TASK:cifar}}'
vtab_root = '{{$VTAB_ROOT:data/vtab-1k}}'
vtab_num_classes = dict(
    caltech101=102,
    cifar=100,
    clevr_count=8,
    clevr_dist=6,
    diabetic_retinopathy=5,
    dmlab=6,
    dsprites_loc=16,
    dsprites_ori=16,
    dtd=47,
    eurosat=10,
    kitti=4,
    oxford_flowers102=102,
    oxford_iiit_pet=37,
    patch_camelyon=2,
    resisc45=45,
    smallnorb_azi=18,
    smallnorb_ele=9,
    sun397=397,
    svhn=10,
)
data_root = f'{vtab_root}/{vtab_task}'
names = pathlib.Path(data_root, 'classes.txt')
if vtab_task in vtab_num_classes:
    num_classes = vtab_num_classes[vtab_task]
elif names.is_file():
    num_classes = len(names.read_text(encoding='utf-8').splitlines())
else:
    raise ValueError(
        f'VTAB_TASK {vtab_task} is neither a folder of {vtab_root} with a classes.txt nor one of '
        f'{", ".join(vtab_num_classes)}'
    )
del names

pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
dataset = dict(
    type='hstpeft.VTAB1k',
    data_root=data_root,
    num_classes=num_classes,
    on_bad_image='error',
    pipeline=pipeline,
)
train_dataloader = dict(num_workers=2, dataset=dict(ann_file='train800val200.txt', **dataset))
val_dataloader = dict(num_workers=2, dataset=dict(ann_file='test.txt', test_mode=True, **dataset))
test_dataloader = val_dataloader
del pathlib, dataset, pipeline
