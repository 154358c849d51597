"""tools/analysis/browse_dataset.py, for the three hosts."""

import re
from pathlib import Path

import mmcv
import numpy as np
import pytest

from hstpeft.engine.config import load_config
from tests.support import made_dense
from tools.analysis.browse_dataset import build_dataset, count_samples, main, samples


def browse(config: Path, folder: Path, *flags: str) -> dict[str, np.ndarray]:
    """Run the tool; returns the pictures by name, RGB."""
    main([str(config), '--output-dir', str(folder), *flags])
    return {path.name: mmcv.imread(path, channel_order='rgb') for path in sorted(folder.iterdir())}


def objects(picture: np.ndarray) -> tuple[bool, bool]:
    """Whether the object is painted where it is on disk, and where a flip puts it."""
    width = picture.shape[1]
    scale = 160 / 135 if width == 160 else 1  # for the image of 99 x 135
    y = int((made_dense.TOP + 0.75 * made_dense.HEIGHT) * scale)
    x = int((made_dense.LEFT + 0.5 * made_dense.WIDTH) * scale)
    green = made_dense.greenness(picture)
    return green[y, x] > 60, green[y, width - x] > 60


@pytest.fixture(params=['SEG', 'DET'])
def task(request, tmp_path) -> made_dense.DenseTask:
    """A tiny task of segmentation, and of instance segmentation."""
    if request.param == 'DET':
        pytest.importorskip('mmcv._ext', reason='mmdet needs the compiled operators of mmcv')
    return made_dense.make_task(tmp_path, getattr(made_dense, request.param), checkpoint=False)


def test_masks_follow_the_transforms(task, tmp_path):
    """The training pipeline enlarges to 160 pixels and always flips."""
    pictures = browse(task.config, tmp_path / 'out')
    assert pictures.keys() == task.images.keys()
    assert pictures['scene2.png'].shape[1] == 160
    assert objects(pictures['scene2.png']) == (False, True)

    pictures = browse(task.config, tmp_path / 'original', '--mode', 'original')
    assert {name: x.shape for name, x in pictures.items()} == {
        name: image.shape for name, image in task.images.items()
    }
    assert objects(pictures['scene2.png']) == (True, False)

    pictures = browse(task.config, tmp_path / 'steps', '--mode', 'pipeline')
    steps = ['0_LoadImageFromFile', '1_LoadAnnotations', '2_Resize', '3_RandomFlip']
    assert pictures.keys() == {f'scene{i}_{step}.png' for i in range(3) for step in steps}
    shown = [objects(pictures[f'scene2_{step}.png']) for step in steps]
    assert shown == [(False, False), (True, False), (True, False), (False, True)]


def test_a_test_split_is_shown_on_the_images_that_its_annotations_fit(task, tmp_path, capsys):
    pictures = browse(task.config, tmp_path / 'out', '--split', 'test', '--number', '3')
    assert 'shown on those' in capsys.readouterr().out
    assert pictures['scene2.png'].shape == task.images['scene2.png'].shape
    assert objects(pictures['scene2.png']) == (True, False)


def test_classification(trained, tmp_path):
    pictures = browse(trained.task.hst, tmp_path / 'out', '--split', 'test', '--number', '2')
    folder = trained.task.data / 'images' / 'test'
    assert list(pictures) == sorted(path.name for path in folder.iterdir())[:2]
    image = mmcv.imread(folder / '000001.png', channel_order='rgb').astype(int)
    difference = abs(pictures['000001.png'] - image)
    assert difference[:12].max() > 50, 'no text'
    assert difference[-4:].max() <= 2, 'other colours'


def test_wrappers_are_looked_through(trained, tmp_path):
    leaf = tmp_path / 'repeated.py'
    leaf.write_text(
        f"_base_ = '{trained.task.hst}'\n"
        'dataset = _base_.test_dataloader.dataset\n'
        'test_dataloader = dict(dataset=dict(\n'
        "    _delete_=True, type='ConcatDataset',\n"
        "    datasets=[dict(type='RepeatDataset', times=2, dataset=dataset), dataset],\n"
        '))\n'
    )
    for mode, number in (('transformed', 3 * 9), ('original', 2 * 9)):
        dataset = build_dataset(load_config(leaf), 'test')
        assert count_samples(dataset, mode) == len(list(samples(dataset, mode))) == number


def test_an_empty_set_is_one_line(tmp_path, capsys):
    config = made_dense.make_task(tmp_path, made_dense.SEG, checkpoint=False).config
    option = 'train_dataloader.dataset.img_suffix=.tif'
    with pytest.raises(SystemExit):
        main([str(config), '--output-dir', str(tmp_path / 'out'), '--cfg-options', option])
    said = capsys.readouterr().err.splitlines()[-1]
    start = 'browse_dataset.py: error: train_dataloader.dataset: '
    assert re.match(rf"{re.escape(start)}\S+ holds no file that ends in '\.tif'", said), said


REFUSALS = {
    'no such split': (
        ['--split', 'val', '--cfg-options', 'val_dataloader=None'],
        r'--split val: the config has no val_dataloader',
    ),
    'no pictures': (['--number', '0'], r'--number 0 must be at least 1'),
    'no packing': (
        ['--mode', 'pipeline', '--cfg-options', 'train_dataloader.dataset.pipeline=[]'],
        r'the pipeline \[\] does not end with a transform that packs: .+',
    ),
    'unknown data set': (
        ['--cfg-options', 'train_dataloader.dataset.type=mmpretrain.VTAP'],
        r'config: train_dataloader\.dataset .+: KeyError: .*mmpretrain\.VTAP is not in .+',
    ),
    'no data': (
        ['--cfg-options', 'train_dataloader.dataset.data_root=/nowhere'],
        r'data_root /nowhere does not exist.*',
    ),
}


@pytest.mark.parametrize('name', REFUSALS)
def test_bad_input_is_one_line(trained, tmp_path, capsys, name):
    flags, pattern = REFUSALS[name]
    with pytest.raises(SystemExit):
        main([str(trained.task.hst), '--output-dir', str(tmp_path), *flags])
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(f'browse_dataset\\.py: error: {pattern}', line), line
