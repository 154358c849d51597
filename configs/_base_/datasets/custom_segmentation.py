# Your own images and masks; val is tested too, for there is no third split.
#   SEGMENTATION_ROOT   folder with img_dir/{train,val}, ann_dir/{train,val} and classes.txt
#   SEGMENTATION_SIZE   the shorter side to which images are resized, and the side of training crops
# Line n of classes.txt names the pixels of value n - 1; those of value 255 have no class. A mask is
# a PNG of one channel, and is called like its image.
import colorsys
import pathlib

_base_ = './common/segmentation.py'
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
load, load_map, check, resize, crop, flip, pack = _base_.train_pipeline
check = dict(check, num_classes=num_classes)
resize = dict(resize, scale=img_scale)
crop = dict(crop, crop_size=(size, size))
train_pipeline = [load, load_map, check, resize, crop, flip, pack]
test_resize = dict(_base_.test_pipeline[1], scale=img_scale)
test_pipeline = [load, test_resize, load_map, check, pack]
dataset = dict(
    type='mmseg.BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix=suffixes[0],
    seg_map_suffix='.png',
)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler'),
    drop_last=True,
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
del colorsys, pathlib, file, hues, suffixes
del load, load_map, check, resize, crop, flip, pack, test_resize, dataset
