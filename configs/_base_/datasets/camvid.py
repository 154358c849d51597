# CamVid, 11 classes; pixels of value 11 are void. Half resolution: crops of 240 x 320 pixels.
#   CAMVID_ROOT   folder with img_dir/{train,val,test} and ann_dir/{train,val,test}
# The validation loader reads val, the test loader test.
_base_ = './common/segmentation.py'
data_root = '{{$CAMVID_ROOT:data/camvid}}'
classes = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian',
    'bicyclist',
)  # fmt: skip
palette = [
    [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0],
    [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
]  # fmt: skip
num_classes = len(classes)
ignore_index = 11
img_scale = (320, 240)
load, load_map, check, resize, crop, flip, pack = _base_.train_pipeline
check = dict(check, num_classes=num_classes, ignore_index=ignore_index)
resize = dict(resize, scale=img_scale)
crop = dict(crop, crop_size=img_scale[::-1], ignore_index=ignore_index)
train_pipeline = [load, load_map, check, resize, crop, flip, pack]
test_resize = dict(_base_.test_pipeline[1], scale=img_scale)
test_pipeline = [load, test_resize, load_map, check, pack]
dataset = dict(
    type='mmseg.BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/test', seg_map_path='ann_dir/test'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(ignore_index=ignore_index)
test_evaluator = val_evaluator
del load, load_map, check, resize, crop, flip, pack, test_resize, dataset
