# The five fine-grained sets of the PEFT papers, with the JSON splits that VPT published
# (<root>/<task>/{train,val,test}.json).
#   FGVC_TASK   cub, nabirds, flowers, cars or dogs
#   FGVC_ROOT   folder that holds the task folders
# The papers train on train.json and report test.json; never choose an epoch by it.
_base_ = './common/classification.py'
fgvc_task = '{{$FGVC_TASK:cub}}'
fgvc_sets = dict(
    cub=(200, 'images'),
    nabirds=(555, 'images'),
    flowers=(102, ''),
    cars=(196, ''),
    dogs=(120, 'Images'),
)
if fgvc_task not in fgvc_sets:
    raise ValueError(f'FGVC_TASK {fgvc_task} is unknown: use one of {", ".join(fgvc_sets)}')
data_root = '{{$FGVC_ROOT:data/fgvc}}' + '/' + fgvc_task
num_classes, image_folder = fgvc_sets[fgvc_task]

train_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=248, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
dataset = dict(
    type='hstpeft.FGVC',
    data_root=data_root,
    image_folder=image_folder,
    num_classes=num_classes,
    on_bad_image='error',
)
train_dataloader = dict(dataset=dict(ann_file='train.json', pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='test.json', test_mode=True, pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader
del dataset, train_pipeline, test_pipeline, image_folder
