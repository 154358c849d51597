"""The tasks of the renderer: which classes there are, and how a scene of a class is drawn.

Shapes: H W pixels, here equal to ``size``. Paint is RGB (H, W, 3) in about [0, 255]; a mask is
float32 (H, W) in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from hstpeft.datasets.drawn.elements import (
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
PLATES = ('disc', 'triangle', 'square', 'hexagon')


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
    """Draw a dial whose hand points at hour ``label``, give or take 7.5 degrees.

    Returns:
        Paint, and the mask of the hand with its hub.
    """
    centre, radius = size * rng.uniform(0.44, 0.56, 2), size * rng.uniform(0.28, 0.38)
    plate_outline = outline(PLATES[rng.integers(len(PLATES))])
    plate = fill(place(plate_outline, centre, 1.15 * radius, rng.uniform(0, TURN)), size)
    plate_colour = colour(rng)
    paint = over(ground(rng, size), plate_colour, plate * rng.uniform(0.8, 1))
    angle = TURN * ((label + rng.uniform(-0.25, 0.25)) / HOURS - 0.25)
    reach = radius * np.array([np.cos(angle), np.sin(angle)])
    width = round(size * rng.uniform(0.045, 0.08))
    hand = stroke(np.stack([centre - 0.25 * reach, centre + 0.9 * reach]), size, width)
    hub = fill(place(outline('disc'), centre, 0.2 * radius, 0), size)
    mask = np.maximum(hand, hub)
    return over(paint, colour(rng, unlike=plate_colour), mask), mask


class Task(NamedTuple):
    """Names of the classes, and what draws ``(label, rng, size)`` as paint and a mask."""

    classes: tuple[str, ...]
    draw: Callable[[int, Generator, int], Scene]


TASKS = {
    'objects': Task(
        tuple(f'{pattern} {shape}' for shape in SHAPES for pattern in TEXTURES), draw_object
    ),
    'dials': Task(("12 o'clock", *(f"{hour} o'clock" for hour in range(1, HOURS))), draw_dial),
}


def check_task(task: str) -> None:
    """Raise `UserError` if there is no such task."""
    if task not in TASKS:
        known = ', '.join(TASKS)
        raise UserError(f'task {task!r} is not one of {known}: {nearest(str(task), TASKS)}')
