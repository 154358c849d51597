"""The tasks of the renderer: which classes there are, and how a scene of a class is drawn.

Shapes: H W pixels, here equal to ``size``. Paint is RGB (H, W, 3) in about [0, 255]; a mask is
float32 (H, W) in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from hstpeft.datasets.drawing import (
    SHAPES,
    TEXTURES,
    TURN,
    colour,
    fill,
    ground,
    outline,
    over,
    place,
    stroke,
    texture,
)
from hstpeft.errors import UserError, nearest

Scene = tuple[np.ndarray, np.ndarray]
HOURS = 12
# Corners of the pen's way, x before y, downwards, in the unit circle.
_GLYPHS = (
    ((0, -1), (-0.6, -0.6), (-0.6, 0.6), (0, 1), (0.6, 0.6), (0.6, -0.6), (0, -1)),
    ((-0.4, -0.6), (0.1, -1), (0.1, 1)),
    ((-0.6, -0.6), (0, -1), (0.6, -0.6), (0.5, -0.1), (-0.6, 1), (0.6, 1)),
    ((-0.6, -0.8), (0, -1), (0.55, -0.6), (0, -0.05), (0.6, 0.5), (0, 1), (-0.6, 0.8)),
    ((0.3, 1), (0.3, -1), (-0.6, 0.35), (0.65, 0.35)),
    ((0.55, -1), (-0.5, -1), (-0.55, -0.1), (0.1, -0.25), (0.6, 0.3), (0.1, 1), (-0.6, 0.8)),
    (
        (0.4, -1),
        (-0.4, -0.3),
        (-0.6, 0.4),
        (-0.2, 1),
        (0.4, 0.9),
        (0.6, 0.4),
        (0.2, 0),
        (-0.5, 0.3),
    ),
    ((-0.6, -1), (0.6, -1), (-0.1, 1)),
    ((0, 0), (-0.5, -0.5), (0, -1), (0.5, -0.5), (0, 0), (-0.6, 0.5), (0, 1), (0.6, 0.5), (0, 0)),
    ((0.5, -0.3), (-0.2, 0), (-0.6, -0.4), (-0.2, -0.95), (0.4, -0.9), (0.55, -0.3), (0.2, 1)),
)


def draw_object(label: int, rng: Generator, size: int) -> Scene:
    """Draw one large object: shape ``label // 8`` in texture ``label % 8``.

    Returns:
        Paint, and the mask of the object.
    """
    centre = size * rng.uniform(0.36, 0.64, 2)
    scale, angle = size * rng.uniform(0.24, 0.38), rng.uniform(0, TURN)
    shape = outline(SHAPES[label // len(TEXTURES)])
    mask = fill(place(shape, centre, scale, angle, rng.uniform(0.9, 1.12)), size)
    paint = ground(rng, size)
    surface = texture(TEXTURES[label % len(TEXTURES)], rng, size, centre)
    return over(paint, surface, mask), mask


def draw_dial(label: int, rng: Generator, size: int) -> Scene:
    """Draw a dial whose hand points at hour ``label``, give or take 9 degrees.

    Returns:
        Paint, and the mask of the hand with its hub.
    """
    centre, radius = size * rng.uniform(0.38, 0.62, 2), size * rng.uniform(0.22, 0.36)
    paint = ground(rng, size)
    plate_shape = outline(SHAPES[rng.integers(4)])
    plate = fill(place(plate_shape, centre, 1.15 * radius, rng.uniform(0, TURN)), size)
    plate_colour = colour(rng)
    paint = over(paint, plate_colour, plate * rng.uniform(0.6, 1))
    angle = TURN * ((label + rng.uniform(-0.3, 0.3)) / HOURS - 0.25)
    way = radius * np.array([np.cos(angle), np.sin(angle)])
    hand = stroke(np.stack([centre - 0.25 * way, centre + 0.9 * way]), size, rng.integers(2, 5))
    hub = fill(place(outline('disc'), centre, 0.2 * radius, 0), size)
    mask = np.maximum(hand, hub)
    return over(paint, colour(rng, unlike=plate_colour), mask), mask


def draw_digit(label: int, rng: Generator, size: int) -> Scene:
    """Draw the digit ``label`` with an unsteady pen.

    Returns:
        Paint, and the mask of the digit.
    """
    centre, radius = size * rng.uniform(0.38, 0.62, 2), size * rng.uniform(0.2, 0.32)
    paint = ground(rng, size)
    way = np.array(_GLYPHS[label])
    way = way + rng.normal(0, 0.06, way.shape)
    way = place(way, centre, radius, rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.1))
    mask = stroke(way, size, rng.integers(2, 5))
    behind = paint[int(centre[1]), int(centre[0])]
    return over(paint, colour(rng, unlike=behind), mask), mask


class Task(NamedTuple):
    """Names of the classes, and what draws ``(label, rng, size)`` as paint and a mask."""

    classes: tuple[str, ...]
    draw: Callable[[int, Generator, int], Scene]


TASKS = {
    'objects': Task(
        tuple(f'{pattern} {shape}' for shape in SHAPES for pattern in TEXTURES), draw_object
    ),
    'dials': Task(("12 o'clock", *(f"{hour} o'clock" for hour in range(1, HOURS))), draw_dial),
    'digits': Task(tuple('0123456789'), draw_digit),
}


def check_task(task: str) -> None:
    """Raise `UserError` if there is no such task."""
    if task not in TASKS:
        known = ', '.join(TASKS)
        raise UserError(f'task {task!r} is not one of {known}: {nearest(str(task), TASKS)}')
