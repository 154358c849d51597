"""Every task part on every kind of backbone, so small that a step takes a fraction of a second.

The task parts, tuners, data sets and runtimes are the shipped ones: a leaf here takes away width,
regions and pixels, and nothing else.
"""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import timm
from mmengine.config import Config
from safetensors.torch import save_file

from hstpeft.datasets.drawn.dense_folders import write_coco_folder, write_segmentation_folder
from hstpeft.datasets.drawn.elements import SHAPES
from tests.support import tiny
from tests.support.arc_pair import SWIN_ARCH
from tests.support.models import ARCH, draw

# Wide and tall in turn; a side of neither is a multiple of 32, nor of a patch.
SIZE, TALL_SIZE = (50, 77), (90, 58)
MAX_SIDES, CROP = (100, 70), (48, 64)
NUM_CLASSES = {'mmseg': 1 + len(SHAPES), 'mmdet': len(SHAPES)}
ITERS, KEPT = 3, 2
WIDTH = 32
EVA_ARCH = 'vit_small_patch16_dinov3'
VIT = dict(embed_dim=32, depth=4, num_heads=2, img_size=64, patch_size=16)
SWIN = dict(
    embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=2, img_size=64,
)  # fmt: skip
SIDE_DIMS = [8, 8, 16, 16]


class Task(NamedTuple):
    """A task part with its host, the data set it learns, and the metric of a validation."""

    host: str
    dataset: str
    metric: str

    @property
    def variable(self) -> str:
        """Name the variable that the data set's base config reads."""
        return f'{self.dataset.upper()}_ROOT'


TASKS = {
    'semantic-fpn': Task('mmseg', 'camvid', 'mIoU'),
    'upernet': Task('mmseg', 'camvid', 'mIoU'),
    'mask-rcnn': Task('mmdet', 'dsb2018', 'coco/segm_mAP'),
    'cascade-mask-rcnn': Task('mmdet', 'dsb2018', 'coco/segm_mAP'),
    'atss': Task('mmdet', 'bccd', 'coco/bbox_mAP'),
}
# Maps of four strides (HST, Swin), and one map or one per level of a plain ViT.
SYSTEMS = ('hst', 'arc', 'lora', 'arc-swin')
# A segmentation and a detection task on every trunk that each of these is defined for.
FURTHER_TASKS = ('semantic-fpn', 'atss')
FURTHER_SYSTEMS = (
    'hst-eva', 'lora-eva', 'lora-swin', 'mona', 'mona-eva', 'mona-swin', 'adaptformer',
    'adaptformer-eva', 'adaptformer-swin',
)  # fmt: skip
TRUNKS = {
    'vit': ('hstpeft.ViTTrunk', ARCH, VIT),
    'eva': ('hstpeft.EvaTrunk', EVA_ARCH, VIT),
    'swin': ('hstpeft.SwinTrunk', SWIN_ARCH, SWIN),
}
# What makes each base tuner small.
_TINY = {
    'hstpeft.HSTTuner': dict(side_dims=SIDE_DIMS, side_heads=[2, 2, 4, 4]),
    'hstpeft.LoRATuner': dict(rank=2),
}

_LEAF = """
_base_ = [
    '{root}/configs/_base_/tasks/{task}.py',
    '{root}/configs/_base_/tuners/{tuner}.py',
    '{root}/configs/_base_/datasets/{dataset}.py',
    '{root}/configs/_base_/schedules/dense_300i.py',
    '{root}/configs/_base_/default_runtime_{host}.py',
]
"""
_NARROW = {
    **dict.fromkeys(('in_channels', 'out_channels', 'channels'), WIDTH),
    # Two for each of the 32 groups of ATSS's norms.
    'feat_channels': 64,
    **dict.fromkeys(('conv_out_channels', 'fc_out_channels'), WIDTH),
    **dict.fromkeys(('num_convs', 'stacked_convs'), 1),
    **dict(nms_pre=64, max_per_img=16),
    # All anchors of a deep level stand over the border of so small an image.
    'allowed_border': -1,
    # An untrained detector believes in little.
    'score_thr': 0.0,
}
# What a head that tells classes apart has.
_LOSSES = {'loss_decode', 'loss_cls', 'loss_mask'}
_SMALL = dict(scale=MAX_SIDES, crop_size=CROP)


@functools.cache
def data_root(host: str, folder: Path) -> Path:
    """Write the drawn data set of a host once."""
    write = write_segmentation_folder if host == 'mmseg' else write_coco_folder
    return write(folder / host, 4, 2, 2, size=SIZE, odd_size=TALL_SIZE)


@functools.cache
def weights(trunk: str, folder: Path) -> Path:
    """Write the drawn weights of a trunk once."""
    path, (_, arch, options) = folder / f'{trunk}.safetensors', TRUNKS[trunk]
    net = timm.create_model(arch, num_classes=0, **options)
    save_file(draw({key: value.shape for key, value in net.state_dict().items()}), path)
    return path


def write_leaf(
    task: str, system: str, folder: Path, shared: Path, norm_cfg: dict | None = None, **extra: Any
) -> Path:
    """Write the leaf of a task part on a kind of backbone.

    Args:
        task: A key of `TASKS`.
        system: One of `SYSTEMS` or `FURTHER_SYSTEMS`.
        folder: For the leaf.
        shared: For data and weights, which all leaves share.
        norm_cfg: Instead of the synchronised BatchNorm of a segmentation head.
        extra: Top-level keys that replace the leaf's.
    """
    part, (tuner, _, trunk) = TASKS[task], system.partition('-')
    path = folder / f'{task}_{system}.py'
    path.write_text(_LEAF.format(root=tiny.ROOT, task=task, tuner=tuner, **part._asdict()))
    root = data_root(part.host, shared)
    with mock.patch.dict(os.environ, {part.variable: str(root)}):
        config = Config.fromfile(path).to_dict()
    tuner = config.pop('tuner')
    model = config['model'] = _narrow(config['model'], NUM_CLASSES[part.host])
    if part.host == 'mmseg':
        model['data_preprocessor']['seg_pad_val'] = config['ignore_index']
        for name in {'decode_head', 'auxiliary_head'} & model.keys():
            model[name]['ignore_index'] = config['ignore_index']
            model[name]['norm_cfg'] = norm_cfg or model[name]['norm_cfg']
    model['data_preprocessor'].update(mean=[127.5] * 3, std=[127.5] * 3)
    _connect(model, task, _backbone(tuner, trunk or 'vit', shared))
    for name in ('train', 'val', 'test'):
        _shrink_loader(config[f'{name}_dataloader'], part.host)
    config['train_dataloader']['batch_size'] = 2
    if part.host == 'mmseg':  # its own inference reads this variable
        config['test_pipeline'] = config['test_dataloader']['dataset']['pipeline']
    else:  # mmseg itself refuses a validation batch of several sizes
        config['val_dataloader']['batch_size'] = 2
    config['default_hooks']['logger'].update(interval=1, log_metric_by_epoch=False)
    config['default_hooks']['checkpoint'].update(by_epoch=False, interval=1, max_keep_ckpts=-1)
    config['log_processor'] = dict(by_epoch=False)
    config['param_scheduler'] = [
        dict(type='LinearLR', start_factor=0.5, begin=0, end=2 * ITERS, by_epoch=False)
    ]
    # After KEPT iterations, where the tests go on, and at the end.
    config['train_cfg'] = dict(by_epoch=False, max_iters=ITERS, val_interval=KEPT)
    # Not by `dump`, which spends most of a second on the layout.
    lines = [f'{key} = {value!r}\n' for key, value in {**config, **extra}.items()]
    path.write_text(''.join(lines))
    return path


def _backbone(tuner: dict, trunk: str, shared: Path) -> dict:
    """Make a backbone of four maps, of one map, or of one per level, from a base tuner."""
    kind, arch, arch_options = TRUNKS[trunk]
    source = dict(arch=arch, arch_options=arch_options, weights=str(weights(trunk, shared)))
    tiny_tuner = dict(tuner, **_TINY.get(tuner['type'], dict(adapter_dims=4)))
    backbone = dict(type='hstpeft.TunedBackbone', trunk=dict(type=kind, **source), tuner=tiny_tuner)
    if tuner['type'] == 'hstpeft.HSTTuner':
        return backbone
    if tuner['type'] == 'hstpeft.ARCTuner' and trunk != 'swin':
        return dict(backbone, out_type='featmap')
    every = dict(out_type='featmap', out_indices=[0, 1, 2, 3])
    return dict(backbone, **every, out_norm=trunk == 'swin')


def _connect(model: dict, task: str, backbone: dict) -> None:
    """Put a backbone under neck and heads as the shipped leaves do, in place."""
    model['backbone'] = backbone
    if backbone['tuner']['type'] == 'hstpeft.HSTTuner':
        widths = SIDE_DIMS
    elif backbone['trunk']['type'] == 'hstpeft.SwinTrunk':
        widths = [SWIN['embed_dim'] * 2**stage for stage in range(4)]
        if task == 'atss':  # its neck would leave the first map unread, and so that map's norm
            widths, backbone['out_indices'] = widths[1:], [1, 2, 3]
            model['neck']['start_level'] = 0
    else:
        levels = dict(scales=[2, 1, 0.5], num_outs=5) if task == 'atss' else {}
        if task == 'atss' and 'out_indices' in backbone:
            backbone['out_indices'] = [1, 2, 3]
        elif 'rpn_head' in model:
            levels = dict(num_outs=5)
        model['neck'] = dict(
            type='hstpeft.SimpleFeaturePyramid', in_channels=VIT['embed_dim'], out_channels=WIDTH,
            **levels,
        )  # fmt: skip
        widths = [WIDTH] * 4
    if task == 'upernet':
        model['decode_head']['in_channels'] = widths
        model['auxiliary_head']['in_channels'] = widths[2]
    elif model['neck']['type'] == f'{TASKS[task].host}.FPN':
        model['neck']['in_channels'] = widths


def _narrow(node: Any, num_classes: int) -> Any:
    """Take away channels, convolutions and regions, and set every class count."""
    if isinstance(node, list):
        return [_narrow(value, num_classes) for value in node]
    if not isinstance(node, dict):
        return node
    found = {key: _narrow(value, num_classes) for key, value in node.items()}
    for key in found.keys() & _NARROW.keys():
        many = isinstance(found[key], list)
        found[key] = [_NARROW[key]] * len(found[key]) if many else _NARROW[key]
    if _LOSSES & found.keys() and found['type'] != 'mmdet.RPNHead':
        found['num_classes'] = num_classes
    return found


def _shrink_loader(loader: dict, host: str) -> None:
    """Let a loader read the small drawn images."""
    loader['num_workers'] = 0
    dataset = loader['dataset']
    for step in dataset['pipeline']:
        step.update({key: value for key, value in _SMALL.items() if key in step})
    if host == 'mmseg':
        dataset['img_suffix'] = '.png'
    else:
        dataset['metainfo'] = dict(classes=SHAPES)
