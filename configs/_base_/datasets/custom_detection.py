# Your own images with boxes as COCO json; val is tested too, for there is no third split.
#   DETECTION_ROOT   folder with train, val and annotations/{train,val}.json
#   DETECTION_SIZE   the shorter side to which images are resized
# The classes are the categories of train.json, in their order.
import json
import pathlib

_base_ = './common/detection.py'
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
load, load_boxes, resize, _, pack = _base_.train_pipeline
flip = dict(type='mmdet.RandomFlip', prob=0.5)
train_pipeline = [load, load_boxes, dict(resize, scale=img_scale), flip, pack]
load, resize, *rest = _base_.test_pipeline
test_pipeline = [load, dict(resize, scale=img_scale), *rest]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline, **dataset),
    sampler=dict(type='DefaultSampler'),
    drop_last=True,
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/val.json')
test_evaluator = val_evaluator
del json, pathlib, split, file, content, load, load_boxes, resize, _, pack, flip, rest, dataset
