# coco.py with multi-scale training.
_base_ = './coco.py'
train_pipeline = [*_base_.train_pipeline[:2], _base_.multi_scale, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
