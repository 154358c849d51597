"""The README's lines, pasted into stock configs of the hosts, which know nothing of hstpeft.

Their own tools train and test it, and their own ways to load a model give what was trained.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hstpeft.datasets.drawn.stand_ins import write_stand_in
from hstpeft.engine.checks.channels import check_channels
from tests.support import dense_hosts, tiny
from tools.delta import main as delta_tool

pytestmark = [pytest.mark.host, pytest.mark.slow]
SCRIPT = tiny.ROOT / 'tests/support/host_process.py'
BACKBONE = """
side_dims = [64, 128, 256, 384]
backbone = dict(
    _delete_=True,
    type='hstpeft.TunedBackbone',
    trunk=dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', weights='augreg_in21k'),
    tuner=dict(type='hstpeft.HSTTuner', side_dims=side_dims, side_heads=[2, 4, 8, 12]),
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
"""
UPERNET = """
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=backbone,
    decode_head=dict(in_channels=side_dims),
    auxiliary_head=dict(in_channels=side_dims[2]),
)
"""
SEMANTIC_FPN = """
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=backbone,
    neck=dict(in_channels=side_dims),
)
"""
MASK_RCNN = """
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=backbone,
    neck=dict(in_channels=side_dims),
)
"""
# Smaller than a user would have it: pixels, widths and iterations, but none of the lines above.
SMALL = """
_base_ = './pasted.py'
trunk = dict(
    arch_options=dict(embed_dim=32, depth=4, num_heads=2, img_size=64), weights='{weights}'
)
load = dict(type='LoadImageFromFile')
resize = dict(type='Resize', scale=(100, 70), keep_ratio=True)
flip = dict(type='RandomFlip', prob=0.5)
loader = dict(num_workers=0, persistent_workers=False)
default_hooks = dict(logger=dict(interval=1))
"""
SMALL_SEGMENTOR = """
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(trunk=trunk),
    decode_head=dict(channels=16),
    auxiliary_head=dict(channels=16),
)
masks = dict(type='LoadAnnotations', reduce_zero_label=True)
crop = dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75)
pack = dict(type='PackSegInputs')
test_pipeline = [load, resize, masks, pack]
train_pipeline = [load, masks, resize, crop, flip, pack]
train_dataloader = dict(
    **loader, batch_size=2, dataset=dict(data_root='{data}', pipeline=train_pipeline)
)
val_dataloader = dict(**loader, dataset=dict(data_root='{data}', pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
"""
SMALL_DETECTOR = """
few = dict(nms_pre=64, max_per_img=16)
extractor = dict(out_channels=16)
model = dict(
    backbone=dict(trunk=trunk),
    neck=dict(out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=extractor,
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1),
    ),
    train_cfg=dict(rpn_proposal=few),
    test_cfg=dict(rpn=few, rcnn=dict(score_thr=0.0, max_per_img=16)),
)
truth = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pipeline = [load, resize, truth, dict(type='PackDetInputs', meta_keys=keys)]
train_pipeline = [load, truth, resize, flip, dict(type='PackDetInputs')]
train_dataloader = dict(
    **loader, batch_size=2, dataset=dict(data_root='{data}', pipeline=train_pipeline)
)
val_dataloader = dict(**loader, dataset=dict(data_root='{data}', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
custom_hooks = [dict(type='hstpeft.DeltaHook')]
"""


def shipped(host: str) -> Path:
    """Return the folder of the configs and tools that come with an installed host."""
    return Path(import_module(host).__file__).parent / '.mim'


def paste(stock: str, lines: str, folder: Path) -> Path:
    """Write a config that a user would write."""
    path = folder / 'pasted.py'
    path.write_text(f'_base_ = [{stock!r}]\n{BACKBONE}{lines}')
    assert 'custom_imports' not in Config.fromfile(path)
    return path


def run(*arguments: object) -> None:
    """Run a script in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != 'LOCAL_RANK'}
    environment.update(OMP_NUM_THREADS='1', PYTHONPATH=str(tiny.ROOT))
    job = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]


def assert_loads(small: Path, checkpoint: str, metric: str, folder: Path) -> None:
    """Train by the host's tool, make a delta, and load it in each of the host's ways."""
    tools = shipped(Config.fromfile(small).default_scope) / 'tools'
    work_dir = folder / 'work'
    run(SCRIPT, 'train', folder / 'trained.pth', tools / 'train.py', small, '--work-dir', work_dir)
    expected = tiny.load(folder / 'trained.pth')
    assert len(expected) == 2 and all(item['raw'] and item['predicted'] for item in expected)
    assert not tiny.same(expected[0], expected[1])

    delta = work_dir / 'delta.pth'
    if not delta.exists():
        delta_tool(['import', str(work_dir / checkpoint), str(delta)])
    assert delta.stat().st_size < (work_dir / checkpoint).stat().st_size
    assert not any(key.startswith('backbone.trunk.vit.blocks.0.attn')
                   for key in tiny.load(delta)['state_dict'])  # fmt: skip

    run(tools / 'test.py', small, delta, '--work-dir', folder / 'tested')
    assert result_of_test(folder / 'tested', metric) == validated(work_dir, metric)

    run(SCRIPT, 'ask', folder / 'asked.pth', small, work_dir / checkpoint, delta)
    asked = tiny.load(folder / 'asked.pth')
    assert asked.keys() == {'checkpoint', 'delta', 'inference', 'inferencer'}
    for name in ('checkpoint', 'delta'):
        assert tiny.same(asked[name], expected), name
    for name in ('inference', 'inferencer'):
        assert tiny.same(asked[name], [item['predicted'] for item in expected]), name


def result_of_test(work_dir: Path, metric: str) -> float:
    """Read what the host's test tool has written."""
    return json.loads(next(work_dir.glob('*/*.json')).read_text())[metric]


def validated(work_dir: Path, metric: str) -> float:
    """Read the last validation of a training."""
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [logged[metric] for logged in map(json.loads, lines) if metric in logged][-1]


def test_C5_mmseg_trains_tests_and_loads_it(shared, tmp_path, need_host):
    need_host('mmseg')
    # By its path: 'mmseg::' finds nothing where mmseg is installed under OneDL's name.
    stock = shipped('mmseg') / 'configs/upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
    paste(str(stock), UPERNET, tmp_path)
    small = tmp_path / 'small.py'
    data = write_stand_in('ade20k', tmp_path / 'ade', 4, 2, size=(90, 77))
    text = SMALL + SMALL_SEGMENTOR
    small.write_text(text.format(weights=dense_hosts.weights('vit', shared), data=data))
    assert_loads(small, 'iter_2.pth', 'mIoU', tmp_path)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_C5_mmdet_trains_tests_and_loads_it(shared, tmp_path, need_host):
    need_host('mmdet')
    paste('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', MASK_RCNN, tmp_path)
    small = tmp_path / 'small.py'
    data = write_stand_in('coco', tmp_path / 'coco', 4, 2, size=(90, 77))
    text = SMALL + SMALL_DETECTOR
    small.write_text(text.format(weights=dense_hosts.weights('vit', shared), data=data))
    assert_loads(small, 'epoch_1.pth', 'coco/bbox_mAP', tmp_path)


def test_semantic_fpn_takes_the_maps_through_its_neck(shared, tmp_path, need_host):
    need_host('mmseg')
    stock = shipped('mmseg') / 'configs/sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
    config = Config.fromfile(paste(str(stock), SEMANTIC_FPN, tmp_path))
    options = dict(embed_dim=32, depth=4, num_heads=2, img_size=64)
    config.model.backbone.trunk.update(
        arch_options=options, weights=str(dense_hosts.weights('vit', shared))
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model).eval()
    check_channels(model)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 90, 77), mode='tensor').shape == (1, 150, 23, 20)
