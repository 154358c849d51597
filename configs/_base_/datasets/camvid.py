# CamVid, 11 classes; pixels of value 11 are void. Half resolution: crops of 240 x 320 pixels.
#   CAMVID_ROOT   folder with img_dir/{train,val,test} and ann_dir/{train,val,test}
# The validation loader reads val, the test loader test.
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
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='hstpeft.CheckSegMap', num_classes=num_classes, ignore_index=ignore_index),
]
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(
        type='mmseg.RandomCrop', crop_size=(240, 320), cat_max_ratio=0.75, ignore_index=ignore_index
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PackSegInputs'),
]
# The ground truth is loaded after the resize, for it keeps its size. mmseg's inference functions drop
# it by this very name, without a prefix.
test_pipeline = [
    load[0],
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    *load[1:],
    dict(type='mmseg.PackSegInputs'),
]
dataset = dict(
    type='mmseg.BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/test', seg_map_path='ann_dir/test'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'], ignore_index=ignore_index)
test_evaluator = val_evaluator
del load, dataset, loader
