"""Scenes of several objects, for dense tasks: what is shown at every pixel.

Shapes: H W pixels. Paint is RGB
(H, W, 3) in about [0, 255]; labels are uint8 (H, W), 0 for the ground.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from hstpeft.datasets.drawn.elements import (
    SHAPES,
    TEXTURES,
    TURN,
    fill,
    ground,
    outline,
    over,
    photograph,
    place,
    texture,
)
from hstpeft.errors import UserError

MIN_SIDE = 32
MAX_CLASSES = 254
# What shows less of itself than this share is too little to be found again.
_MIN_VISIBLE = 0.15
_MIN_CONTRAST = 45
_MAX_GROUND_SIDE = 512


class Instance(NamedTuple):
    """What can be seen of one object.

    Attributes:
        label: Its class, from 1, as in the label map.
        mask: bool (H, W).
        box: x, y, width and height of the smallest box around the mask.
    """

    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]


class DenseScene(NamedTuple):
    """An image, RGB uint8 (H, W, 3), its label map and its instances, lowest first."""

    image: np.ndarray
    labels: np.ndarray
    instances: list[Instance]


def draw_dense_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (64, 96),
    num_classes: int = len(SHAPES),
    num_objects: tuple[int, int] = (3, 8),
) -> DenseScene:
    """Draw textured objects on a ground; one that comes later covers those before it.

    Class ``c`` shows shape ``(c - 1) % 10``. Up to ten classes, its texture is random; beyond,
    ten classes in a row share one of the 8 textures, so that classes 80 apart look alike.
    Objects whose visible part is tiny are no instances, yet the label map shows what remains.

    Args:
        seed: Starts the stream of scenes.
        index: Which scene of the stream; with ``seed``, it decides everything that is random.
        size: H and W.
        num_classes: How many there are beside the ground.
        num_objects: The least and the most objects of a scene; the more, the smaller.

    Raises:
        UserError: A side is too short, or there are too few or too many classes.
    """
    _check(seed, size, num_classes)
    rng = np.random.default_rng((seed, index))
    paint, owner = _wide_ground(rng, size), np.zeros(size, np.int32)
    things = _choose(rng, size, num_classes, num_objects)
    areas = [_lay(thing, number, paint, owner, rng) for number, thing in enumerate(things, start=1)]
    labels = [thing.label for thing in things]
    masks = [owner == number for number in range(1, len(things) + 1)]
    instances = [
        Instance(label, mask, tuple(cv2.boundingRect(mask.astype(np.uint8))))
        for label, mask, area in zip(labels, masks, areas, strict=True)
        if mask.sum() >= _MIN_VISIBLE * area
    ]
    label_map = np.array([0, *labels], np.uint8)[owner]
    return DenseScene(photograph(paint, rng), label_map, instances)


def _check(seed: int, size: tuple[int, int], num_classes: int) -> None:
    if seed < 0:
        raise UserError(f'seed {seed} is negative: use 0 or more')
    if min(size) < MIN_SIDE:
        raise UserError(f'size {size[0]} x {size[1]} is too small: use sides of {MIN_SIDE} or more')
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f'num_classes {num_classes} is outside 1..{MAX_CLASSES}: fix it')


def _wide_ground(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Stretch a square ground; a large one is enlarged too, which saves most of its time."""
    square = ground(rng, min(*size, _MAX_GROUND_SIDE))
    return cv2.resize(square, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


class _Thing(NamedTuple):
    """What is decided about an object before it is drawn; the centre is (x, y)."""

    label: int
    shape: str
    texture: str
    centre: np.ndarray
    radius: float


def _choose(
    rng: Generator, size: tuple[int, int], num_classes: int, num_objects: tuple[int, int]
) -> list[_Thing]:
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    room = math.sqrt(size[0] * size[1] / count)
    return [
        _Thing(
            label,
            *_look(label, num_classes, rng),
            centre,
            min(room * rng.uniform(0.28, 0.5), 0.35 * min(size)),
        )
        for label, centre in zip(
            rng.integers(1, num_classes + 1, count).tolist(),
            _spread(count, size, rng),
            strict=True,
        )
    ]


def _look(label: int, num_classes: int, rng: Generator) -> tuple[str, str]:
    """Return the shape and the texture of an object of this class."""
    pattern, shape = divmod(label - 1, len(SHAPES))
    if num_classes <= len(SHAPES):
        pattern = int(rng.integers(len(TEXTURES)))
    return SHAPES[shape], TEXTURES[pattern % len(TEXTURES)]


def _spread(count: int, size: tuple[int, int], rng: Generator) -> list[np.ndarray]:
    """Draw centres that keep some distance, else most objects would hide each other."""
    centres: list[np.ndarray] = []
    for _ in range(count):
        choices = rng.uniform(0.15, 0.85, (4, 2)) * (size[1], size[0])
        room = [min((math.dist(c, other) for other in centres), default=0) for c in choices]
        centres.append(choices[int(np.argmax(room))])
    return centres


def _lay(thing: _Thing, number: int, paint: np.ndarray, owner: np.ndarray, rng: Generator) -> int:
    """Draw an object into ``paint``, and its number into ``owner``; return its whole area."""
    height, width = owner.shape
    side = math.ceil(3 * thing.radius)  # holds the object at any angle
    x, y = np.round(thing.centre - side / 2).astype(int)
    window = np.s_[max(y, 0) : min(y + side, height), max(x, 0) : min(x + side, width)]
    inside = np.s_[max(-y, 0) : height - y, max(-x, 0) : width - x]
    middle, angle = np.full(2, side / 2), rng.uniform(0, TURN)
    corners = place(outline(thing.shape), middle, thing.radius, angle, rng.uniform(0.9, 1.12))
    whole = fill(corners, side)
    mask, below = whole[inside], paint[window]
    while True:
        surface = texture(thing.texture, rng, side, middle)[inside]
        if _contrast(surface, below, mask) > _MIN_CONTRAST:
            break
    paint[window] = over(below, surface, mask)
    owner[window][mask > 0.5] = number
    return int((whole > 0.5).sum())


def _contrast(surface: np.ndarray, below: np.ndarray, mask: np.ndarray) -> float:
    """Return how far two paints are apart where the mask is, on average over it."""
    distance = np.abs(surface - below).mean(axis=2)
    return float((distance * mask).sum() / mask.sum())
