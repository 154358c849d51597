"""The leaves for a user's own folder: from the data to a delta, and what is missing is one line."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from hstpeft.delta import load_checkpoint
from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from tests.support import tiny

PROJECTS = tiny.ROOT / 'projects'
MAX_LINES = 20
SIZE = (64, 96)
LEAVES = {
    'semantic-fpn': 'custom_segmentation/hst_vit-mini_semantic-fpn_1xb4-12e_custom.py',
    'mask-rcnn': 'custom_detection/hst_vit-mini_mask-rcnn_1xb2-12e_custom.py',
    'atss': 'custom_detection/hst_vit-mini_atss_1xb2-12e_custom.py',
}
# After one iteration a detector believes in nothing: show what it finds, but little of it.
OPTIONS = {
    'semantic-fpn': [],
    'mask-rcnn': ['model.test_cfg.rcnn.score_thr=0.0', 'model.test_cfg.rcnn.max_per_img=8'],
    'atss': ['model.test_cfg.score_thr=0.0', 'model.test_cfg.max_per_img=8'],
}


class Data(NamedTuple):
    """A data set of the user.

    Attributes:
        masks: Folder with images and label maps.
        boxes: Folder with images and COCO files.
    """

    masks: Path
    boxes: Path


@pytest.fixture(scope='module')
def draw() -> ModuleType:
    """Import the script that draws."""
    spec = importlib.util.spec_from_file_location('draw', PROJECTS / 'custom_segmentation/draw.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.NUMBERS, module.SIZE = dict(train=4, val=1), SIZE
    return module


@pytest.fixture(scope='module')
def drawn(draw, tmp_path_factory) -> Data:
    """Draw both folders once."""
    folder = tmp_path_factory.mktemp('drawn')
    data = Data(folder / 'masks', folder / 'boxes')
    draw.main(['masks', str(data.masks)])
    draw.main(['coco', str(data.boxes)])
    return data


@pytest.fixture
def data(drawn, tmp_path, monkeypatch) -> Data:
    """Copy both folders, for a test may spoil them, and name them as a user would."""
    folder = Path(shutil.copytree(drawn.masks.parent, tmp_path / 'data'))
    data = Data(folder / 'masks', folder / 'boxes')
    for kind, root in (('SEGMENTATION', data.masks), ('DETECTION', data.boxes)):
        monkeypatch.setenv(f'{kind}_ROOT', str(root))
        monkeypatch.setenv(f'{kind}_SIZE', str(min(SIZE)))
    return data


def leaf(task: str) -> Path:
    return PROJECTS / LEAVES[task]


def dry_run(task: str, work_dir: Path) -> dict:
    """Go from the data to a delta; returns the metrics of the validation."""
    work_dir = tiny.train(leaf(task), work_dir, '--dry-run', options=OPTIONS[task])
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    return json.loads(scalars.splitlines()[-1])


@pytest.mark.parametrize('task', LEAVES)
def test_a_leaf_is_short(task):
    assert len(leaf(task).read_text().splitlines()) <= MAX_LINES


def test_segmentation_goes_from_the_data_to_a_delta_that_mmseg_loads(data, tmp_path):
    pytest.importorskip('mmseg.models', exc_type=ImportError)
    from mmseg.apis import inference_model, init_model

    names = data.masks.joinpath('classes.txt').read_text().split()
    assert 'mIoU' in dry_run('semantic-fpn', tmp_path / 'work')
    delta = tmp_path / 'work/dry_run/delta.pth'
    meta = load_checkpoint(delta)['meta']['dataset_meta']
    assert list(meta['classes']) == names
    assert len({tuple(colour) for colour in meta['palette']}) == len(names)
    # The written config is whole: it asks for the folder no more.
    shutil.rmtree(data.masks)
    model = init_model(
        str(tmp_path / 'work/dry_run' / leaf('semantic-fpn').name), str(delta), 'cpu'
    )
    result = inference_model(model, np.zeros((40, 72, 3), np.uint8))
    assert result.pred_sem_seg.data.shape == (1, 40, 72)
    assert result.seg_logits.data.shape == (len(names), 40, 72)


@pytest.mark.parametrize('task', [pytest.param('mask-rcnn', marks=pytest.mark.slow), 'atss'])
def test_detection_goes_from_the_data_to_a_delta_that_mmdet_loads(task, data, tmp_path):
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    from mmdet.apis import inference_detector, init_detector

    has_masks = task == 'mask-rcnn'
    content = json.loads(data.boxes.joinpath('annotations', 'train.json').read_bytes())
    names = [category['name'] for category in content['categories']]
    metrics = dry_run(task, tmp_path / 'work')
    assert 'coco/bbox_mAP' in metrics and ('coco/segm_mAP' in metrics) == has_masks
    delta = tmp_path / 'work/dry_run/delta.pth'
    assert list(load_checkpoint(delta)['meta']['dataset_meta']['classes']) == names
    shutil.rmtree(data.boxes)
    config = str(tmp_path / 'work/dry_run' / leaf(task).name)
    model = init_detector(config, str(delta), device='cpu')
    found = inference_detector(model, np.zeros((40, 72, 3), np.uint8)).pred_instances
    assert len(found) > 0 and int(found.labels.max()) < len(names)
    assert ('masks' in found) == has_masks


@pytest.mark.parametrize('task', LEAVES)
def test_the_name_and_the_learning_rate_are_for_this_batch_size(task, data):
    config = load_config(leaf(task))
    assert config.auto_scale_lr.base_batch_size == config.train_dataloader.batch_size
    assert (
        f'_1xb{config.train_dataloader.batch_size}-{config.train_cfg.max_epochs}e_' in LEAVES[task]
    )


@pytest.mark.parametrize('task', LEAVES)
def test_two_names_give_a_large_trunk(task, data, tmp_path):
    text = leaf(task).read_text().replace('../..', str(tiny.ROOT))
    text = text.replace('trunks/vit-mini_rendered.py', 'trunks/vit-b16_augreg-in21k.py')
    text = text.replace('tuners/hst.py', 'tuners/hst-dense.py')
    (tmp_path / 'large.py').write_text(text)
    model = load_config(tmp_path / 'large.py').model
    assert model.backbone.trunk.arch == 'vit_base_patch16_224'
    assert model.neck.in_channels == model.backbone.tuner.side_dims == [64, 128, 256, 384]


def test_jpeg_images_are_found(data):
    for path in data.masks.glob('img_dir/*/*.png'):
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()
    assert load_config(leaf('semantic-fpn')).train_dataloader.dataset.img_suffix == '.jpg'


def test_boxes_alone_are_enough_for_atss_only(data):
    file = data.boxes / 'annotations' / 'train.json'
    content = json.loads(file.read_bytes())
    del content['annotations'][-1]['segmentation']
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'train\.json has annotations without segmentation'):
        load_config(leaf('mask-rcnn'))
    assert load_config(leaf('atss')).val_evaluator.metric == 'bbox'


def test_a_missing_list_of_classes_is_one_line(data, tmp_path, capsys):
    (data.masks / 'classes.txt').unlink()
    with pytest.raises(SystemExit):
        tiny.train(leaf('semantic-fpn'), tmp_path / 'work')
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'train.py: error: config {leaf("semantic-fpn")}: SEGMENTATION_ROOT {data.masks} has no '
        'classes.txt: write one, a class on each line'
    )


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_missing_json_is_one_line(split, data, tmp_path, capsys):
    (data.boxes / 'annotations' / f'{split}.json').unlink()
    with pytest.raises(SystemExit):
        tiny.train(leaf('mask-rcnn'), tmp_path / 'work')
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'train.py: error: config {leaf("mask-rcnn")}: DETECTION_ROOT {data.boxes} has no '
        f'annotations/{split}.json: write it in the format of COCO'
    )


@pytest.mark.parametrize('text', ['', 'ground\n', 'ground\n\ndisc\n'])
def test_useless_lists_of_classes(text, data):
    (data.masks / 'classes.txt').write_text(text)
    with pytest.raises(UserError, match=r'classes\.txt must name two classes or more'):
        load_config(leaf('semantic-fpn'))


def test_images_of_two_suffixes_or_none(data):
    shutil.copy(data.masks / 'img_dir/val/0001.png', data.masks / 'img_dir/val/other.JPG')
    with pytest.raises(UserError, match=r'must hold images of one suffix, there are \.JPG, \.png:'):
        load_config(leaf('semantic-fpn'))
    shutil.rmtree(data.masks / 'img_dir')
    with pytest.raises(UserError, match=r'must hold images of one suffix, there are none:'):
        load_config(leaf('semantic-fpn'))


def test_a_json_that_is_not_of_coco(data):
    (data.boxes / 'annotations' / 'train.json').write_text('{"shapes": []}')
    with pytest.raises(UserError, match=r'train\.json has no categories'):
        load_config(leaf('atss'))


def test_both_kinds_show_the_same_textures(draw, drawn):
    names = drawn.masks.joinpath('classes.txt').read_text().split()
    content = json.loads(drawn.boxes.joinpath('annotations/train.json').read_bytes())
    assert ['ground', *(category['name'] for category in content['categories'])] == names
    assert names == ['ground', *draw.TEXTURES]
    maps = [np.array(Image.open(path)) for path in sorted(drawn.masks.glob('ann_dir/train/*.png'))]
    assert len(maps) == 4 and len(content['annotations']) >= 12
    for shown in content['annotations']:
        (x, y, width, height), labels = shown['bbox'], maps[shown['image_id'] - 1]
        assert shown['category_id'] in labels[y : y + height, x : x + width]
    assert len({shown['category_id'] for shown in content['annotations']}) == len(draw.TEXTURES)


def test_drawing_mixes_nothing_with_real_data(draw, tmp_path, capsys):
    for arguments, complaint in (
        (['masks', tmp_path], f'ROOT {tmp_path} exists'),
        (['boxes', tmp_path / 'new'], "kind 'boxes' is unknown: use one of ['masks', 'coco']"),
        (['masks'], "arguments ['masks'] must be two"),
    ):
        with pytest.raises(SystemExit):
            draw.main([str(argument) for argument in arguments])
        assert capsys.readouterr().err.startswith(f'draw.py: error: {complaint}')
    assert not list(tmp_path.iterdir())
