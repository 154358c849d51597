# Your own images and masks; val is tested too, for there is no third split.
#   SEGMENTATION_ROOT   folder with img_dir/{train,val}, ann_dir/{train,val} and classes.txt
#   SEGMENTATION_SIZE   the shorter side to which images are resized, and the side of training crops
# Line n of classes.txt names the pixels of value n - 1; those of value 255 have no class. A mask is
# a PNG of one channel, and is called like its image.
import colorsys
import pathlib

data_root = '{{$SEGMENTATION_ROOT:data/segmentation}}'
size = int('{{$SEGMENTATION_SIZE:128}}')
file = pathlib.Path(data_root, 'classes.txt')
if not file.is_file():
    raise ValueError(
        f'SEGMENTATION_ROOT {data_root} has no classes.txt: write one, a class on each line'
    )
classes = tuple(line.strip() for line in file.read_text(encoding='utf-8').splitlines())
if len(classes) < 2 or not all(classes):
    raise ValueError(
        f'{file} must name two classes or more, one on each line and no empty line between: '
        'the background counts'
    )
num_classes = len(classes)
# Hues that are far apart, however many there are.
hues = [(0.6 + 0.618 * label) % 1 for label in range(num_classes)]
palette = [[int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 0.9)] for hue in hues]
# mmseg lists the images by one suffix, and would pass over others.
suffixes = sorted({path.suffix for path in pathlib.Path(data_root, 'img_dir').rglob('*.*')})
suffixes = [
    suffix
    for suffix in suffixes
    if suffix.lower() in ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
]
if len(suffixes) != 1:
    raise ValueError(
        f'{data_root}/img_dir must hold images of one suffix, there are '
        f'{", ".join(suffixes) or "none"}: put them there, or convert some'
    )
img_scale = (2 * size, size)
load = [
    dict(type='LoadImageFromFile'),
    # By this bare name mmseg's inference drops it; mmseg's default scope finds the same class.
    dict(type='LoadAnnotations'),
    dict(type='hstpeft.CheckSegMap', num_classes=num_classes),
]
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=(size, size), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PackSegInputs'),
]
# The ground truth is loaded after the resize, for it keeps its size.
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
    img_suffix=suffixes[0],
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
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
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
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del colorsys, pathlib, file, hues, suffixes, load, dataset, loader
