# Nuclei of the Data Science Bowl 2018 (stage 1): instance masks, at about their own resolution.
#   DSB2018_ROOT   folder with annotations/{train,val}.json and the images in folders of these names
# There is no third split: validation and test both read val.
_base_ = './common/detection.py'
data_root = '{{$DSB2018_ROOT:data/dsb2018}}'
classes = ('nucleus',)
num_classes = len(classes)
img_scale = (256, 256)
load, _, resize, *rest = _base_.train_pipeline
train_pipeline = [load, _base_.load_masks, dict(resize, scale=img_scale), *rest]
load, resize, _, pack = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=img_scale), _base_.load_masks, pack]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
del load, _, resize, rest, pack, dataset
