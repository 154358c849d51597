"""Tiny segmentation and instance segmentation tasks on disk, with untrained checkpoints.

Image ``i`` is grey noise with one brighter rectangle, in the left half; its pixels are class 1 of
the masks, and the object of the annotation file.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.registry import MODELS
from PIL import Image

from hstpeft.engine.config import load_config

SIZES = ((96, 128), (128, 96), (99, 135))
LEFT, TOP, WIDTH, HEIGHT = 12, 20, 30, 60

BACKBONE = """
backbone = dict(
    type='hstpeft.TunedBackbone',
    trunk=dict(
        type='hstpeft.ViTTrunk',
        arch='vit_tiny_patch16_224',
        arch_options=dict(embed_dim=32, depth=4, num_heads=2, img_size=64),
        weights=None,
    ),
    tuner=dict(type='hstpeft.HSTTuner', side_dims=[8, 8, 16, 16], side_heads=[2, 2, 4, 4]),
)
mean_std = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
test_cfg = dict()
"""

SEG = BACKBONE + """
default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], alpha=0.5)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32, test_cfg=dict(size_divisor=32), **mean_std),
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[8, 8, 16, 16], out_channels=8, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32],
        channels=8, num_classes=2, norm_cfg=dict(type='BN'), align_corners=False,
    ),
    auxiliary_head=dict(
        type='FCNHead', in_channels=8, in_index=2, channels=8, num_convs=1, num_classes=2,
        norm_cfg=dict(type='BN'), align_corners=False,
    ),
    test_cfg=dict(mode='whole'),
)
dataset = dict(
    type='BaseSegDataset', data_root='{folder}', img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(classes=('ground', 'thing'), palette=[[0, 0, 0], [0, 255, 0]]),
    data_prefix=dict(img_path='images', seg_map_path='masks'),
)
load, annotations = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
resize = dict(type='Resize', scale=(160, 160), keep_ratio=True)
flip, pack = dict(type='RandomFlip', prob=1.0), dict(type='PackSegInputs')
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=[load, annotations, resize, flip, pack], **dataset),
)
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=[load, resize, annotations, pack], test_mode=True, **dataset),
)
test_evaluator = dict(type='IoUMetric')
del dataset, load, annotations, resize, flip, pack, backbone, mean_std
"""  # fmt: skip

DET = BACKBONE + """
default_scope = 'mmdet'
iou = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
extractor = dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[4, 8, 16, 32])
nms = dict(type='nms', iou_threshold=0.5)
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_mask=True, pad_size_divisor=32, **mean_std),
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[8, 8, 16, 16], out_channels=8, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=8, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7), **extractor),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16, roi_feat_size=7,
            num_classes=1, bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        ),
        mask_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=14), **extractor),
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8, num_classes=1
        ),
    ),
    train_cfg=None,
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20, nms=nms, min_bbox_size=0),
        rcnn=dict(score_thr=0.0, nms=nms, max_per_img=5, mask_thr_binary=0.5),
    ),
)
dataset = dict(
    type='CocoDataset', data_root='{folder}', ann_file='coco.json',
    metainfo=dict(classes=('thing',), palette=[(0, 255, 0)]), data_prefix=dict(img='images/'),
)
load = dict(type='LoadImageFromFile')
annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
resize = dict(type='Resize', scale=(160, 160), keep_ratio=True)
flip, pack = dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs')
pack_test = dict(
    type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=[load, annotations, resize, flip, pack], **dataset),
)
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=[load, resize, annotations, pack_test], test_mode=True, **dataset),
)
test_evaluator = dict(type='CocoMetric', ann_file='{folder}/coco.json', metric='bbox')
del dataset, load, annotations, resize, flip, pack, pack_test, backbone, mean_std, iou, extractor, nms
"""  # fmt: skip


class DenseTask(NamedTuple):
    """Paths of a tiny dense task; ``images`` are RGB arrays by name."""

    config: Path
    checkpoint: Path
    images: dict[str, np.ndarray]


def make_task(folder: Path, leaf: str, checkpoint: bool = True) -> DenseTask:
    """Write images, annotations, a leaf and, if wanted, a checkpoint of its untrained model."""
    config, file = folder / 'tiny.py', folder / 'tiny.pth'
    images = write_data(folder)
    config.write_text(leaf.replace('{folder}', str(folder)))
    if checkpoint:
        model = MODELS.build(load_config(config).model)
        torch.save(dict(state_dict=model.state_dict(), meta={}), file)
    return DenseTask(config, file, images)


def write_data(folder: Path) -> dict[str, np.ndarray]:
    """Write the images, their masks and their COCO annotations."""
    rng = np.random.default_rng(0)
    images, records, annotations = {}, [], []
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        image = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = 1
        image[mask == 1] += 60
        name = f'scene{index}.png'
        images[name] = image
        Image.fromarray(image).save(folder / 'images' / name)
        Image.fromarray(mask).save(folder / 'masks' / name)
        records.append(dict(id=index, file_name=name, height=height, width=width))
        right, bottom = LEFT + WIDTH, TOP + HEIGHT
        outline = [LEFT, TOP, right, TOP, right, bottom, LEFT, bottom]
        annotations.append(
            dict(
                id=index, image_id=index, category_id=1, iscrowd=0, area=WIDTH * HEIGHT,
                bbox=[LEFT, TOP, WIDTH, HEIGHT], segmentation=[outline],
            )
        )  # fmt: skip
    coco = dict(images=records, annotations=annotations, categories=[dict(id=1, name='thing')])
    (folder / 'coco.json').write_text(json.dumps(coco))
    return images


def greenness(picture: np.ndarray) -> np.ndarray:
    """How much greener than grey an RGB picture is, by pixel: class 1 is painted green."""
    rgb = picture.astype(int)
    return rgb[..., 1] - (rgb[..., 0] + rgb[..., 2]) // 2
