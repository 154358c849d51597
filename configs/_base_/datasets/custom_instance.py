# Your own images with boxes and masks as COCO json; for the folder and the sizes see
# custom_detection.py.
_base_ = './custom_detection.py'
if not _base_.has_masks:
    raise ValueError(
        f'{_base_.data_root}/annotations/train.json has annotations without segmentation: '
        'take a detector that needs boxes only'
    )
train_pipeline = [_base_.train_pipeline[0], _base_.load_masks, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], _base_.load_masks, _base_.test_pipeline[3]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
