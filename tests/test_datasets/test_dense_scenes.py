"""Scenes for dense tasks: image, label map, masks and boxes agree, and two numbers decide them."""

import random
from collections import defaultdict

import numpy as np
import pytest

from hstpeft.datasets.drawn import dense_scenes
from hstpeft.datasets.drawn.dense_scenes import draw_dense_scene
from hstpeft.datasets.drawn.elements import SHAPES, outline, texture
from hstpeft.errors import UserError

SIZES = [(64, 96), (97, 45), (33, 32)]


def scenes(size=(64, 96), number=20, **options):
    return [draw_dense_scene(0, index, size, **options) for index in range(number)]


@pytest.mark.parametrize('size', SIZES)
def test_shapes_types_and_labels(size):
    shown = set()
    for scene in scenes(size):
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == size and scene.labels.dtype == np.uint8
        shown |= set(np.unique(scene.labels).tolist())
    assert shown == set(range(len(SHAPES) + 1))


@pytest.mark.parametrize('size', SIZES)
def test_masks_agree_with_the_label_map_and_with_each_other(size):
    for scene in scenes(size):
        assert scene.instances
        masks = np.stack([instance.mask for instance in scene.instances])
        assert masks.sum(axis=0).max() == 1
        for instance in scene.instances:
            assert (scene.labels[instance.mask] == instance.label).all()


@pytest.mark.parametrize('size', SIZES)
def test_boxes_are_tight(size):
    for instance in (instance for scene in scenes(size) for instance in scene.instances):
        x, y, width, height = instance.box
        inside = instance.mask[y : y + height, x : x + width]
        assert inside.sum() == instance.mask.sum() > 0
        assert inside[[0, -1]].any(axis=1).all() and inside[:, [0, -1]].any(axis=0).all()


def test_what_is_hardly_visible_is_no_instance():
    crowded = scenes(num_classes=1, num_objects=(40, 40))
    hidden = sum(40 - len(scene.instances) for scene in crowded)
    assert hidden > 10
    largest = max(instance.mask.sum() for scene in crowded for instance in scene.instances)
    left_out = [(s.labels > 0) & ~np.any([i.mask for i in s.instances], axis=0) for s in crowded]
    # The label map keeps the slivers.
    assert 0 < np.sum(left_out) < 0.15 * hidden * largest


def test_the_last_object_covers_the_others():
    """It loses nothing but what the border cuts: a disc in the middle stays whole."""
    whole = 0
    for scene in scenes((96, 96), num_classes=1, num_objects=(12, 12)):
        x, y, width, height = scene.instances[-1].box
        if min(x, y) > 0 and max(x + width, y + height) < 96:
            whole += 1
            area = np.pi / 4 * width * height  # of an upright ellipse; a tilted one fills less
            assert 0.85 * area < scene.instances[-1].mask.sum() < 1.1 * area
    assert whole > 6


def test_objects_stand_out_from_the_ground(monkeypatch):
    grey = np.float32(128)
    monkeypatch.setattr(dense_scenes, 'ground', lambda rng, size: np.full((size, size, 3), grey))
    monkeypatch.setattr(dense_scenes, 'photograph', lambda paint, rng: paint)
    distances = [
        np.abs(scene.image[instance.mask] - grey).mean()
        for scene in scenes((128, 128), 60, num_objects=(1, 1))
        for instance in scene.instances
    ]
    assert len(distances) == 60 and min(distances) > 40


def test_seed_and_index_decide_and_global_random_state_does_not():
    np.random.seed(1), random.seed(1)
    before = np.random.get_state()[1].copy(), random.getstate()
    first = draw_dense_scene(3, 5)
    assert np.array_equal(before[0], np.random.get_state()[1]) and before[1] == random.getstate()
    np.random.seed(2), random.seed(2)
    second = draw_dense_scene(3, 5)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert [i.box for i in first.instances] == [i.box for i in second.instances]
    others = [draw_dense_scene(3, 6), draw_dense_scene(4, 5)]
    assert not any(np.array_equal(first.image, other.image) for other in others)


@pytest.mark.parametrize(('num_classes', 'textures'), [(10, 8), (80, 1)])
def test_a_class_has_one_shape_and_beyond_ten_classes_one_texture(
    num_classes, textures, monkeypatch
):
    used = []
    monkeypatch.setattr(dense_scenes, 'outline', lambda shape: used.append(shape) or outline(shape))
    monkeypatch.setattr(
        dense_scenes, 'texture', lambda name, *rest: used.append(name) or texture(name, *rest)
    )
    looks = defaultdict(set)
    for index in range(160):
        used.clear()
        (instance,) = draw_dense_scene(0, index, (32, 32), num_classes, (1, 1)).instances
        shape, surface = used[0], used[-1]
        assert shape == SHAPES[(instance.label - 1) % 10]
        looks[instance.label].add(surface)
    assert max(len(surfaces) for surfaces in looks.values()) == textures
    assert len({surface for surfaces in looks.values() for surface in surfaces}) == 8


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(seed=-1), 'seed -1'),
        (dict(size=(31, 96)), 'size 31 x 96'),
        (dict(size=(96, 31)), 'size 96 x 31'),
        (dict(num_classes=0), 'num_classes 0'),
        (dict(num_classes=255), 'num_classes 255'),
    ],
)
def test_a_mistake_is_named(options, message):
    with pytest.raises(UserError, match=message):
        draw_dense_scene(**{'seed': 0, 'index': 0, **options})
