"""Every leaf of a dense task trains a step, validates and writes a delta on a drawn stand-in.

The trunks lose all but four blocks, the images most of their pixels, the detectors most of their
regions; all else is as shipped.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from hstpeft.datasets.drawn.stand_ins import write_stand_in
from hstpeft.delta import load_checkpoint
from hstpeft.engine.config import load_config
from hstpeft.oracle.case import Case
from tests.support import tiny
from tests.support.leaves import LEAVES, NAME, shrunk
from tests.support.paths import REFERENCE
from tools.reference_checks.hst import build

# Data set in a leaf's name -> the layout of its stand-in, and the variable that names its folder.
ROOTS = {
    'ade20k-512x512': ('ade20k', 'ADE20K_ROOT'),
    'cityscapes-768x768': ('cityscapes', 'CITYSCAPES_ROOT'),
    'coco': ('coco', 'COCO_ROOT'),
    'camvid': ('camvid', 'CAMVID_ROOT'),
    'bccd': ('bccd', 'BCCD_ROOT'),
    'dsb2018': ('dsb2018', 'DSB2018_ROOT'),
}
# One leaf a host is dry-run in the fast tier.
FAST = (
    'hst_vit-ti16_semantic-fpn_1xb4-300i_camvid',
    'hst_vit-ti16_atss_1xb4-300i_bccd',
)
DENSE = {name: NAME.fullmatch(name) for name in LEAVES if NAME.fullmatch(name)['task']}
SIZE = (64, 96)


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
    """Write each stand-in once."""
    folder = tmp_path_factory.mktemp('stand-ins')
    return functools.cache(
        lambda layout: write_stand_in(layout, folder / layout, num_train=4, num_val=1, size=SIZE)
    )


def smaller(node: Any) -> Any:
    """Make every size that a pipeline or a sliding window names fit `SIZE`."""
    if isinstance(node, dict):
        changed = {key: smaller(value) for key, value in node.items()}
        for key, value in dict(
            scale=SIZE[::-1], scales=[SIZE[::-1]], crop_size=(48, 48), stride=(32, 32)
        ).items():
            # Strides of convolutions and of pyramids are numbers.
            if key in changed and isinstance(changed[key], (tuple, list)):
                changed[key] = value
        return changed
    return [smaller(value) for value in node] if isinstance(node, (list, tuple)) else node


def fewer_regions(node: Any) -> Any:
    """Make a detector look at few regions, and show even what it hardly believes in."""
    if isinstance(node, dict):
        few = dict(num=16, nms_pre=64, max_per_img=16, score_thr=0.0, fc_out_channels=32)
        return {key: few.get(key, fewer_regions(value)) for key, value in node.items()}
    return [fewer_regions(value) for value in node] if isinstance(node, list) else node


def small_leaf(name: str, folder: Path) -> Path:
    """Write a leaf with a short trunk and small images."""
    config = shrunk(LEAVES[name]).to_dict()
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        pipeline = config[loader]['dataset']['pipeline']
        config[loader]['dataset']['pipeline'] = smaller(pipeline)
        config[loader]['num_workers'] = 0
    config['model']['test_cfg'] = smaller(config['model']['test_cfg'])
    for part in {'roi_head', 'train_cfg', 'test_cfg'} & config['model'].keys():
        config['model'][part] = fewer_regions(config['model'][part])
    backbone = config['model']['backbone']
    if len(backbone.get('out_indices') or ()) == 4:
        backbone['out_indices'] = [0, 1, 2, 3]
    for head in ('decode_head', 'auxiliary_head'):
        # A batch of a small image has a single pixel behind the pooling of one process.
        if head in config['model']:
            config['model'][head].update(norm_cfg=dict(type='GN', num_groups=4), channels=64)
    path = folder / f'{name}.py'
    Config(config).dump(path)
    return path


def test_there_are_leaves_for_every_task_and_data_set():
    assert {parts['task'] for parts in DENSE.values()} == {
        'semantic-fpn', 'upernet', 'mask-rcnn', 'cascade-mask-rcnn', 'atss',
    }  # fmt: skip
    assert {parts['dataset'] for parts in DENSE.values()} == set(ROOTS)


@pytest.mark.parametrize('size', ['96', '64x96'])
def test_the_reference_checks_the_very_classes_of_the_dense_leaves(size):
    """`dense_features_*` compare the maps of this backbone with the official ones."""
    init_default_scope('mmpretrain')
    case = Case(REFERENCE / 'hst' / f'dense_features_{size}.json', torch.float32)
    backbone = build(case).backbone
    leaves = [name for name, parts in DENSE.items() if parts['method'] == 'hst']
    assert len(leaves) >= 8
    for name in leaves:
        config = load_config(LEAVES[name]).model.backbone
        assert MODELS.get(config.type) is type(backbone)
        assert MODELS.get(config.trunk.type) is type(backbone.trunk)
        assert MODELS.get(config.tuner.type) is type(backbone.tuner)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in DENSE]
)
def test_a_dry_run_goes_from_the_data_to_a_delta(name, stand_in, tmp_path, monkeypatch):
    parts = DENSE[name]
    host = 'mmseg' if parts['task'] in ('semantic-fpn', 'upernet') else 'mmdet'
    pytest.importorskip(f'{host}.models', exc_type=ImportError)
    layout, variable = ROOTS[parts['dataset']]
    monkeypatch.setenv(variable, str(stand_in(layout)))
    assert load_config(LEAVES[name]).train_dataloader.dataset.data_root == str(stand_in(layout))
    work_dir = tiny.train(small_leaf(name, tmp_path), tmp_path / 'work', '--dry-run')
    delta = load_checkpoint(work_dir / 'delta.pth')
    assert delta['meta']['iter'] == 1
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    logged = [json.loads(line) for line in scalars.splitlines()]
    assert any('loss' in line for line in logged)
    metric = 'mIoU' if host == 'mmseg' else 'coco/bbox_mAP'
    assert any(metric in line and line['step'] == 1 for line in logged)
