# coco_ms.py with masks.
_base_ = './coco_ms.py'
load = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
]
train_pipeline = [*load, *_base_.train_pipeline[2:]]
test_pipeline = [load[0], _base_.test_pipeline[1], load[1], _base_.test_pipeline[3]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
del load
