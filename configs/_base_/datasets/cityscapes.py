# Cityscapes, 19 classes, crops of 768 x 768.
#   CITYSCAPES_ROOT   folder with leftImg8bit/{train,val} and gtFine/{train,val} (labelTrainIds)
_base_ = './common/segmentation.py'
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
num_classes = 19
crop_size = (768, 768)
load, load_map, check, resize, crop, flip, pack = _base_.train_pipeline
check = dict(check, num_classes=num_classes)
train_pipeline = [
    load,
    load_map,
    check,
    dict(resize, scale=(2048, 1024), ratio_range=(0.5, 2.0)),
    dict(crop, crop_size=crop_size),
    flip,
    dict(type='mmseg.PhotoMetricDistortion'),
    pack,
]
test_resize = dict(_base_.test_pipeline[1], scale=(2048, 1024))
test_pipeline = [load, test_resize, load_map, check, pack]
dataset = dict(type='mmseg.CityscapesDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=4,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
del load, load_map, check, resize, crop, flip, pack, test_resize, dataset
