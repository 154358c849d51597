# ADE20K, 150 classes, crops of 512 x 512; label 0 of the files is "other" and ignored.
#   ADE20K_ROOT   folder with images/{training,validation} and annotations/{training,validation}
_base_ = './common/segmentation.py'
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
num_classes = 150
crop_size = (512, 512)
load, load_map, check, resize, crop, flip, pack = _base_.train_pipeline
load_map = dict(load_map, reduce_zero_label=True)
check = dict(check, num_classes=num_classes)
train_pipeline = [
    load,
    load_map,
    check,
    dict(resize, scale=(2048, 512), ratio_range=(0.5, 2.0)),
    dict(crop, crop_size=crop_size),
    flip,
    dict(type='mmseg.PhotoMetricDistortion'),
    pack,
]
test_resize = dict(_base_.test_pipeline[1], scale=(2048, 512))
test_pipeline = [load, test_resize, load_map, check, pack]
dataset = dict(type='mmseg.ADE20KDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=4,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
del load, load_map, check, resize, crop, flip, pack, test_resize, dataset
