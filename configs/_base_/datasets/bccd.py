# BCCD blood cells: boxes of three classes, at half resolution (320 x 240).
#   BCCD_ROOT   folder with annotations/{train,val,test}.json and the images in folders of these names
# The validation loader reads val, the test loader test.
_base_ = './common/detection.py'
data_root = '{{$BCCD_ROOT:data/bccd}}'
classes = ('RBC', 'WBC', 'Platelets')
num_classes = len(classes)
img_scale = (320, 240)
load, load_boxes, resize, *rest = _base_.train_pipeline
train_pipeline = [load, load_boxes, dict(resize, scale=img_scale), *rest]
load, resize, *rest = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=img_scale), *rest]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = dict(
    dataset=dict(
        ann_file='annotations/test.json',
        data_prefix=dict(img='test/'),
        pipeline=test_pipeline,
        **dataset,
    )
)
val_evaluator = dict(ann_file=f'{data_root}/annotations/val.json')
test_evaluator = dict(ann_file=f'{data_root}/annotations/test.json')
del load, load_boxes, resize, rest, dataset
