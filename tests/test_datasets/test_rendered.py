"""The renderer: what decides an image, what the data set delivers, the folder it writes."""

import random

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from hstpeft.datasets.drawn.cls_dataset import (
    RenderedShapes,
    render_image,
    render_sample,
    write_vtab_folder,
)
from hstpeft.datasets.drawn.cls_scenes import TASKS
from hstpeft.datasets.vtab import VTAB1k
from hstpeft.errors import UserError

PACK = [dict(type='mmpretrain.PackInputs')]


def dataset(task='dials', num_samples=24, seed=0, **options):
    return RenderedShapes(task, num_samples, seed, **options)


def image_of(data, index):
    return data[index]['img']


@pytest.mark.parametrize('task', TASKS)
def test_an_image_is_decided_by_its_arguments(task):
    first, second = (render_image(task, 3, np.random.default_rng(5), 40) for _ in range(2))
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert not np.array_equal(first, render_image(task, 3, np.random.default_rng(6), 40))
    assert not np.array_equal(first, render_image(task, 4, np.random.default_rng(5), 40))


@pytest.mark.parametrize('task', TASKS)
def test_every_class_can_be_drawn(task):
    for label in range(len(TASKS[task].classes)):
        rng = np.random.default_rng(label)
        paint, mask = TASKS[task].draw(label, rng, 32)
        assert paint.shape == (32, 32, 3) and np.isfinite(paint).all()
        assert mask.shape == (32, 32) and mask.min() >= 0 and 0.5 < mask.max() <= 1


def test_global_random_state_is_neither_read_nor_changed():
    data = dataset()
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    first = image_of(data, 7)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert before[1] == random.getstate() and torch.equal(before[2], torch.get_rng_state())
    np.random.seed(2), random.seed(2), torch.manual_seed(2)
    assert np.array_equal(first, image_of(data, 7))


def test_order_of_reading_and_length_do_not_matter():
    data, longer = dataset(), dataset(num_samples=30)
    backwards = [image_of(data, index) for index in reversed(range(24))][::-1]
    assert all(np.array_equal(backwards[i], image_of(longer, i)) for i in range(24))


def test_seeds_share_no_image():
    first, second = (
        {image_of(data, i).tobytes() for i in range(24)} for data in (dataset(), dataset(seed=1))
    )
    assert len(first) == len(second) == 24 and not first & second


@pytest.mark.parametrize('task', TASKS)
def test_classes_are_balanced(task):
    num_classes = len(TASKS[task].classes)
    data = dataset(task, num_samples=3 * num_classes)
    assert np.bincount(data.get_gt_labels()).tolist() == [3] * num_classes
    assert [data.get_cat_ids(i)[0] for i in range(3)] == [0, 1, 2]
    assert TASKS[task].classes == data.CLASSES and len(set(data.CLASSES)) == num_classes


def test_results_are_what_a_loading_transform_would_give():
    results = dataset(img_size=48)[13]
    image, label = render_sample('dials', 0, 13, 48)
    assert label == results['gt_label'] == 1 and results['sample_idx'] == 13
    assert np.array_equal(results['img'], image[..., ::-1])
    assert results['img_shape'] == results['ori_shape'] == (48, 48)
    assert results['img_path'] == 'rendered/dials/0/13'


def test_a_subset_keeps_its_images():
    data = dataset()
    assert np.array_equal(image_of(data.get_subset([5, 9]), 1), image_of(data, 9))


def test_loader_workers_deliver_the_same_images():
    data = dataset(pipeline=PACK)
    loader = DataLoader(data, batch_size=8, num_workers=2, collate_fn=pseudo_collate)
    images = torch.stack([image for batch in loader for image in batch['inputs']])
    assert torch.equal(images, torch.stack([data[i]['inputs'] for i in range(24)]))
    assert data[13]['data_samples'].gt_label.tolist() == [1]


def test_vtab_folder_is_read_back(tmp_path):
    folder = write_vtab_folder(tmp_path, 'dials', train=13, val=12, test=5, seed=3, img_size=32)
    assert folder == tmp_path / 'dials'
    lines = (folder / 'train13val12.txt').read_text().splitlines()
    assert lines[12:14] == ['images/train/000012.png 0', 'images/val/000000.png 0']
    sizes = {'train13': 13, 'val12': 12, 'train13val12': 25, 'test': 5}
    for name, size in sizes.items():
        data = VTAB1k(
            data_root=str(folder),
            ann_file=f'{name}.txt',
            num_classes=12,
            pipeline=[dict(type='mmpretrain.LoadImageFromFile'), *PACK],
        )
        assert len(data) == size and tuple(data.CLASSES) == TASKS['dials'].classes
    image, label = render_sample('dials', 5, 4, 32)
    assert label == data[4]['data_samples'].gt_label == 4
    assert np.array_equal(data[4]['inputs'].numpy(), mmcv.rgb2bgr(image).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(task='dial'), r"task 'dial' .*objects, dials.*did you mean 'dials'"),
        (dict(num_samples=0), 'num_samples 0 .*1 or more'),
        (dict(seed=-1), 'seed -1 .*0 or more'),
        (dict(img_size=8), 'img_size 8 .*16 or more'),
    ],
)
def test_wrong_arguments_are_named(options, named):
    with pytest.raises(UserError, match=named):
        dataset(**options)


def test_wrong_arguments_of_render_image_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r'label 12 of task .dials. is outside 0\.\.11'):
        render_image('dials', 12, rng)
    with pytest.raises(UserError, match='size 8 is too small'):
        render_image('dials', 0, rng, size=8)
    with pytest.raises(ValueError, match="did you mean 'objects'"):
        render_image('object', 0, rng)
