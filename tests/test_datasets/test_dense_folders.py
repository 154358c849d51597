"""Folders of drawn scenes: what is on disk says what the scenes say."""

import json

import cv2
import mmcv
import numpy as np
import pytest

from hstpeft.datasets.drawn.dense_folders import (
    SPLITS,
    polygons,
    run_lengths,
    write_coco_folder,
    write_segmentation_folder,
)
from hstpeft.datasets.drawn.dense_scenes import draw_dense_scene
from hstpeft.datasets.drawn.elements import SHAPES

NUMBERS = dict(num_train=3, num_val=2, num_test=1)


def scene(split, index, seed=7, size=(64, 96)):
    return draw_dense_scene(seed + SPLITS.index(split), index, size)


def drawn(split_and_file):
    """The scene of file ``<split>/<number from 1>.png``."""
    return scene(split_and_file.parent.name, int(split_and_file.stem) - 1)


def filled(outlines, shape):
    """Fill polygons whose corners are given in COCO's way, pixel (0, 0) spanning 0 to 1."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for outline in outlines:
        corners = np.array(outline, np.float32).reshape(-1, 1, 2)
        middles = zip(x.ravel() + 0.5, y.ravel() + 0.5, strict=True)
        hits = [cv2.pointPolygonTest(corners, point, False) > 0 for point in middles]
        inside |= np.reshape(hits, shape)
    return inside


def decoded(runs):
    values = np.arange(len(runs['counts'])) % 2 == 1
    return np.repeat(values, runs['counts']).reshape(runs['size'], order='F')


def ring():
    mask = np.zeros((12, 15), bool)
    mask[2:10, 1:13] = True
    mask[4:8, 3:5] = mask[5:7, 8:11] = False  # two holes
    mask[5, 9] = True  # an island in one
    return mask


MASKS = [
    ring(),
    np.ones((4, 5), bool),
    np.eye(6, dtype=bool),
    np.random.default_rng(0).uniform(size=(12, 14)) < 0.6,
    scene('train', 0).instances[0].mask,
]


@pytest.mark.parametrize('mask', MASKS)
def test_polygons_give_back_the_mask(mask):
    outlines = polygons(mask)
    assert all(len(outline) >= 6 and len(outline) % 2 == 0 for outline in outlines)
    assert np.array_equal(filled(outlines, mask.shape), mask)


def test_a_mask_without_holes_is_not_cut():
    assert len(polygons(np.ones((4, 5), bool))) == 1
    assert len(polygons(~np.eye(4, dtype=bool))) == 2


@pytest.mark.parametrize('mask', MASKS)
def test_run_lengths_give_back_the_mask(mask):
    assert np.array_equal(decoded(run_lengths(mask)), mask)


def test_pycocotools_reads_both_forms_exactly():
    reader = pytest.importorskip('pycocotools.mask')
    for mask in MASKS:
        shape = mask.shape
        union = reader.merge(reader.frPyObjects(polygons(mask), *shape))
        for encoded in (union, reader.frPyObjects(run_lengths(mask), *shape)):
            assert np.array_equal(reader.decode(encoded).astype(bool), mask)


@pytest.fixture(scope='module')
def maps(tmp_path_factory):
    return write_segmentation_folder(tmp_path_factory.mktemp('maps'), **NUMBERS, seed=7)


def test_segmentation_folder_holds_images_and_maps(maps):
    for split in SPLITS:
        files = sorted((maps / 'img_dir' / split).iterdir())
        assert len(files) == NUMBERS[f'num_{split}']
        for file in files:
            expected = drawn(file)
            labels = mmcv.imread(maps / 'ann_dir' / split / file.name, flag='unchanged')
            assert np.array_equal(mmcv.imread(file, channel_order='rgb'), expected.image)
            assert labels.dtype == np.uint8 and np.array_equal(labels, expected.labels)


def test_segmentation_folder_names_the_classes(maps):
    assert (maps / 'classes.txt').read_text().splitlines() == ['ground', *SHAPES]


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp('coco'), **NUMBERS, seed=7)


def read(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def test_coco_folder_lists_its_images(coco):
    for split in SPLITS:
        listed = read(coco, split)['images']
        files = {entry['file_name'] for entry in listed}
        assert files == {file.name for file in (coco / split).iterdir()}
        assert [entry['id'] for entry in listed] == [*range(1, NUMBERS[f'num_{split}'] + 1)]
        for entry in listed:
            image = mmcv.imread(coco / split / entry['file_name'], channel_order='rgb')
            assert (entry['height'], entry['width']) == image.shape[:2]
            assert np.array_equal(image, drawn(coco / split / entry['file_name']).image)


def test_coco_annotations_are_those_of_the_scenes(coco):
    content = read(coco, 'train')
    names = {entry['id']: entry['name'] for entry in content['categories']}
    assert names == dict(enumerate(SHAPES, start=1))
    assert [a['id'] for a in content['annotations']] == [*range(1, len(content['annotations']) + 1)]
    for image in content['images']:
        found = [a for a in content['annotations'] if a['image_id'] == image['id']]
        expected = scene('train', image['id'] - 1).instances
        for annotation, instance in zip(found, expected, strict=True):
            assert annotation['category_id'] == instance.label
            assert tuple(annotation['bbox']) == instance.box
            assert annotation['area'] == instance.mask.sum() and annotation['iscrowd'] == 0
            assert annotation['segmentation'] == polygons(instance.mask)


@pytest.mark.parametrize('write', [write_segmentation_folder, write_coco_folder])
def test_every_second_image_can_have_an_odd_size_and_a_split_can_be_left_out(write, tmp_path):
    root = write(tmp_path, 3, 2, 0, size=(40, 32), odd_size=(33, 71))
    for number, folder in ((3, 'train'), (2, 'val')):
        files = sorted(file for file in root.rglob('*.png') if file.parent.name == folder)
        sizes = [mmcv.imread(file).shape[:2] for file in files if 'ann_dir' not in file.parts]
        assert sizes == [(40, 32), (33, 71), (40, 32)][:number]
    assert not list(root.rglob('test*'))


def test_splits_share_no_image(coco):
    content = [file.read_bytes() for file in coco.rglob('*.png')]
    assert len(set(content)) == len(content) == sum(NUMBERS.values())
