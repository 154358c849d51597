"""CheckSegMap, behind mmseg's own LoadAnnotations: by itself, and through a loader's worker."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image

from hstpeft.datasets import CheckSegMap
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError, one_line_errors
from tests.support import tiny
from tests.support.dense_data import config, seg_dataset, write_segmentation

pytest.importorskip('mmseg.datasets')
LOAD, CHECK = dict(type='mmseg.LoadAnnotations'), dict(type='hstpeft.CheckSegMap', num_classes=3)


def load(path: Path, mask: np.ndarray | Image.Image, zero: bool = False, **options) -> dict:
    """Write a mask and run both transforms on it."""
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    image.save(path)
    results = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=zero)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return Compose([LOAD, {**CHECK, **options}])(results)


def mask(*labels: int) -> np.ndarray:
    return np.array([labels] * 2, dtype=np.uint8)


@pytest.mark.parametrize(
    ('labels', 'options'),
    [
        ((0, 1, 2, 255), {}),
        ((255, 255), {}),
        ((0, 1, 2, 11), dict(ignore_index=11)),
        ((0, 1, 2, 3), dict(zero=True)),
    ],
    ids=['all classes', 'nothing but ignored pixels', 'another ignore_index', 'zero reduced'],
)
def test_labels_of_the_classes_pass_unchanged(labels, options, tmp_path):
    results = load(tmp_path / 'mask.png', mask(*labels), **options)
    expected = mask(*labels)
    if options.get('zero'):
        expected = expected - np.uint8(1)  # 0 becomes 255
    assert np.array_equal(results['gt_seg_map'], expected)


@pytest.mark.parametrize(
    ('labels', 'options', 'found', 'remedy'),
    [
        ((0, 3), {}, '3', r"set the data set's reduce_zero_label=True"),
        ((0, 255, 9, 7), {}, '7, 9', 'set ignore_index'),
        ((0, 255), dict(ignore_index=11), '255', 'set num_classes'),
        ((0, 4), dict(zero=True), '3', 'reduce_zero_label=True has made 1 the first label'),
        (tuple(range(30)), {}, r'3, 4, 5, 6, 7, 8, 9, 10 \.\.\.', 'set num_classes'),
    ],
)
def test_label_that_is_no_class_is_named_with_its_file(labels, options, found, remedy, tmp_path):
    said = rf'^mask \S+/bad\.png holds the label ids {found}, but num_classes=3 allows 0 to 2 .+'
    with pytest.raises(UserError, match=said + remedy):
        load(tmp_path / 'bad.png', mask(*labels), **options)


def test_colour_mask_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'^mask \S+/rgb\.png has the shape \(2, 4, 3\): .+ single'):
        load(tmp_path / 'rgb.png', np.zeros((2, 4, 3), dtype=np.uint8))


def test_palette_mask_holds_indices_and_passes(tmp_path):
    image = Image.fromarray(mask(0, 1, 2)).convert('P')
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert np.array_equal(load(tmp_path / 'mask.png', image)['gt_seg_map'], mask(0, 1, 2))


def test_place_in_the_pipeline():
    """Inference on a plain image has no mask; a data set with masks must have loaded it before."""
    assert CheckSegMap(3)({'img_path': 'a.jpg'}) == {'img_path': 'a.jpg'}
    with pytest.raises(UserError, match='put it after LoadAnnotations'):
        CheckSegMap(3)({'img_path': 'a.jpg', 'seg_map_path': 'a.png'})


def test_class_count_must_be_positive():
    with pytest.raises(UserError, match=r'^CheckSegMap\.num_classes 0 must be 1 or more$'):
        CheckSegMap(0)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('name', ['train', 'test'])
def test_error_crosses_a_worker_and_is_one_line(name, workers, tmp_path, capfd):
    """In training as in testing."""
    root = write_segmentation(tmp_path, count=1)
    split = 'val' if name == 'test' else 'train'
    Image.fromarray(mask(0, 1, 7)).save(root / 'ann_dir' / split / '0.png')
    datasets = [seg_dataset(root, s, pipeline=[LOAD, CHECK]) for s in ('train', 'val')]
    runner = build_runner(config(tmp_path / 'work', *datasets, workers=workers))
    with pytest.raises(SystemExit) as exit_, one_line_errors(f'{name}.py'):
        getattr(runner, name)()
    assert exit_.value.code == 1
    vars(runner).clear()  # a loop of iterations keeps the loader's iterator
    tiny.let_go(exit_.value)
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f'{name}.py: error: mask {root}/ann_dir/{split}/0.png holds the label')
