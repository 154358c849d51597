"""Pictures of classified images, and how their files are named; the other hosts: tests/test_tools."""

from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from hstpeft.errors import UserError
from hstpeft.visualization import (
    PictureFolder,
    PicturesHook,
    build_visualizer,
    read_picture,
    to_picture,
)

CLASSES = dict(classes=('cat', 'dog'))
RED = np.broadcast_to(np.array([200, 30, 10], dtype=np.uint8), (80, 120, 3))


def sample(**meta) -> DataSample:
    return DataSample(metainfo=meta).set_gt_label(0).set_pred_label(1)


def draw(folder: PictureFolder, **meta) -> Path:
    visualizer = build_visualizer(Config(dict(default_scope='mmpretrain')), CLASSES)
    return folder.add(visualizer, RED, sample(**meta), draw_pred=True)


def test_the_labels_are_on_an_image_of_the_right_colours(tmp_path):
    path = draw(PictureFolder(tmp_path / 'new', '--show-dir'), img_path='/data/a/0007.png')
    assert path == tmp_path / 'new' / '0007.png'
    picture = mmcv.imread(path, channel_order='rgb').astype(int)
    assert picture.shape == RED.shape
    assert abs(picture - RED)[:40].max() > 50, 'no text'
    assert abs(picture - RED)[60:].max() <= 2


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    folder = PictureFolder(tmp_path, '--show-dir')
    images = ['a/7.jpg', 'b/7.jpg', 'c/7.JPG', 'd/7.tif', 'e/7.bmp', None]
    names = [draw(folder, img_path=image).name for image in images]
    assert names == ['7.jpg', '7_2.jpg', '7.JPG', '7.png', '7_2.png', '000005.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / '7.png').mkdir()
    with pytest.raises(UserError, match=r'--show-dir: \S+/7\.png cannot be written'):
        draw(PictureFolder(tmp_path, '--show-dir'), img_path='7.png')


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('something of the user')
    with pytest.raises(UserError, match=r'--show-dir \S+/file cannot be made'):
        PictureFolder(tmp_path / 'file', '--show-dir')


def test_the_visualizer_keeps_its_options_but_writes_to_no_backend():
    backends = [dict(type='LocalVisBackend')]
    figure = dict(frameon=False, dpi=50)
    cfg = Config(
        dict(
            visualizer=dict(
                type='mmpretrain.UniversalVisualizer', vis_backends=backends, fig_save_cfg=figure
            )
        )
    )
    visualizer = build_visualizer(cfg, CLASSES)
    assert visualizer.fig_save_cfg['dpi'] == 50
    assert visualizer.dataset_meta == CLASSES
    assert not visualizer._vis_backends
    assert not Visualizer.check_instance_created('pictures')


@pytest.mark.parametrize('visualizer', [None, dict(type='Visualizer')])
def test_a_visualizer_that_draws_nothing_is_replaced(visualizer):
    cfg = Config(dict(default_scope='mmpretrain', visualizer=visualizer))
    assert isinstance(build_visualizer(cfg, CLASSES), UniversalVisualizer)


def test_an_unknown_host_is_an_error():
    with pytest.raises(UserError, match=r"default_scope 'mmpose' has no pictures: .*mmseg"):
        build_visualizer(Config(dict(default_scope='mmpose')), CLASSES)


def test_the_image_on_disk_is_preferred_to_what_the_pipeline_made_of_it(tmp_path):
    mmcv.imwrite(RED[..., ::-1].copy(), str(tmp_path / 'red.png'))
    inputs = torch.zeros(3, 40, 60, dtype=torch.uint8)
    inputs[0] = 255  # blue, for the channels are BGR
    on_disk = read_picture(sample(img_path=str(tmp_path / 'red.png')), inputs)
    assert np.array_equal(on_disk, RED)
    drawn = read_picture(sample(img_path='rendered/7', ori_shape=(80, 120)), inputs)
    assert drawn.shape == RED.shape
    assert (drawn == [0, 0, 255]).all()


def test_grey_and_float_inputs_become_pictures():
    grey = torch.tensor([[[7.6, -3.0, 300.0]]])
    assert to_picture(grey).tolist() == [[[7] * 3, [0] * 3, [255] * 3]]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    """Each would draw its own share, and the hosts let the first one draw only."""
    monkeypatch.setattr('hstpeft.visualization.hook.get_world_size', lambda: 2)
    with pytest.raises(UserError, match='--show-dir draws in one process'):
        PicturesHook(tmp_path).before_test(runner=None)
