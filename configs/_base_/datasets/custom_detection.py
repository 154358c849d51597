# Your own images with boxes as COCO json; val is tested too, for there is no third split.
#   DETECTION_ROOT   folder with train, val and annotations/{train,val}.json
#   DETECTION_SIZE   the shorter side to which images are resized
# The classes are the categories of train.json, in their order.
import json
import pathlib

data_root = '{{$DETECTION_ROOT:data/detection}}'
size = int('{{$DETECTION_SIZE:96}}')
for split in ('val', 'train'):
    file = pathlib.Path(data_root, 'annotations', f'{split}.json')
    if not file.is_file():
        raise ValueError(
            f'DETECTION_ROOT {data_root} has no annotations/{split}.json: write it in the format '
            'of COCO'
        )
content = json.loads(file.read_bytes())
if not content.get('categories'):
    raise ValueError(f'{file} has no categories: it must be in the format of COCO')
classes = tuple(category['name'] for category in content['categories'])
num_classes = len(classes)
has_masks = all(shown.get('segmentation') for shown in content.get('annotations', ()))
img_scale = (2 * size, size)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
]
train_pipeline = [
    *load,
    dict(
        type='RandomResize',
        scale=img_scale,
        ratio_range=(0.75, 1.25),
        keep_ratio=True,
        resize_type='mmdet.Resize',
    ),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    load[0],
    dict(type='mmdet.Resize', scale=img_scale, keep_ratio=True),
    load[1],
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(type='mmdet.CocoDataset', data_root=data_root, metainfo=dict(classes=classes))
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        **dataset,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        **dataset,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric', ann_file=f'{data_root}/annotations/val.json', metric='bbox'
)
test_evaluator = val_evaluator
del json, pathlib, split, file, content, load, dataset, loader
