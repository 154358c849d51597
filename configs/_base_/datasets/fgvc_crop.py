# The fine-grained sets with the light augmentation of VPT, ARC and SA2VP: the short edge resized to
# 256, a random crop of 224, a flip.
_base_ = './fgvc.py'
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
resize = dict(
    type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bilinear'
)
train_pipeline = [
    load,
    resize,
    dict(type='RandomCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    load,
    resize,
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del load, resize, train_pipeline, test_pipeline
