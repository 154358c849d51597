"""tools/test.py --show-dir: a picture of every test image, for the three hosts."""

import json
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch

from tests.support import made_dense, tiny
from tools.test import main, to_json


def show(config: Path, checkpoint: Path, folder: Path, *flags, options=()) -> dict[str, np.ndarray]:
    """Run the tool; returns the pictures by name, RGB."""
    flags = [checkpoint, '--show-dir', folder / 'shown', *flags]
    main(tiny.arguments(config, folder / 'work', *flags, options=options))
    assert not list((folder / 'work').rglob('vis_image')), 'a second copy elsewhere'
    paths = sorted((folder / 'shown').iterdir())
    return {path.name: mmcv.imread(path, channel_order='rgb') for path in paths}


def test_classification(trained, tmp_path):
    pictures = show(trained.task.hst, trained.delta, tmp_path)
    folder = trained.task.data / 'images' / 'test'
    assert pictures.keys() == {path.name for path in folder.iterdir()}
    for name, picture in pictures.items():
        image = mmcv.imread(folder / name, channel_order='rgb').astype(int)
        assert abs(picture - image)[:12].max() > 50, 'no text'
        assert abs(picture - image)[-4:].max() <= 2, 'other colours'


def halves(picture: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Annotation and prediction, side by side."""
    width = image.shape[1]
    assert picture.shape == (image.shape[0], 2 * width, 3)
    return picture[:, :width], picture[:, width:]


def inner(picture: np.ndarray) -> np.ndarray:
    """The lower part of the object, away from its outline and its name."""
    y, x = made_dense.TOP, made_dense.LEFT
    return picture[y + 35 : y + made_dense.HEIGHT - 6, x + 6 : x + made_dense.WIDTH - 6]


def outer(picture: np.ndarray) -> np.ndarray:
    """Some ground."""
    return picture[-10:]


def test_segmentation(tmp_path):
    task = made_dense.make_task(tmp_path, made_dense.SEG)
    out = tmp_path / 'metrics.json'
    pictures = show(task.config, task.checkpoint, tmp_path, '--out', out)
    assert pictures.keys() == task.images.keys()
    for name, picture in pictures.items():
        truth, predicted = halves(picture, task.images[name])
        assert made_dense.greenness(inner(truth)).min() > 60
        assert abs(made_dense.greenness(outer(truth))).max() < 20
        assert np.abs(predicted.astype(int) - task.images[name]).mean() > 20, 'nothing drawn'
    assert 0 <= json.loads(out.read_text())['mIoU'] <= 100

    # Where no pixel counts, there is no mean.
    for path in (tmp_path / 'masks').iterdir():
        mmcv.imwrite(np.full_like(mmcv.imread(path, 'grayscale'), 255), str(path))
    main(tiny.arguments(task.config, tmp_path / 'void', task.checkpoint, '--out', out))
    assert json.loads(out.read_text())['mIoU'] is None


def test_detection(tmp_path):
    pytest.importorskip('mmcv._ext', reason='mmdet needs the compiled operators of mmcv')
    task = made_dense.make_task(tmp_path, made_dense.DET)
    pictures = show(task.config, task.checkpoint, tmp_path)
    assert pictures.keys() == task.images.keys()
    for name, picture in pictures.items():
        truth, predicted = halves(picture, task.images[name])
        assert made_dense.greenness(inner(truth)).mean() > 60, 'no mask'
        assert abs(made_dense.greenness(outer(truth))).max() < 20
        assert np.abs(predicted.astype(int) - task.images[name]).max() > 60, 'nothing drawn'


def test_a_folder_in_the_way_is_one_line(trained, tmp_path, capsys):
    (tmp_path / 'shown').write_text('something of the user')
    with pytest.raises(SystemExit):
        show(trained.task.hst, trained.delta, tmp_path)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f'test.py: error: --show-dir {tmp_path}/shown cannot be made: ')


def test_metrics_become_valid_json():
    metrics = {'a': float('nan'), 'b': np.float32(0.5), 'c': [np.inf, 1], 'd': torch.tensor([1, 2])}
    clean = {'a': None, 'b': 0.5, 'c': [None, 1], 'd': [1, 2]}
    assert to_json(metrics) == clean
    assert json.loads(json.dumps(to_json(metrics), allow_nan=False)) == clean
