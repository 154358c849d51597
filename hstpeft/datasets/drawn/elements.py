"""Outlines, colours, textures and grounds: what the scenes of the renderer are made of.

Shapes: H W pixels, here equal to ``size``. Paint is RGB (H, W, 3) in about [0, 255]; a mask is
float32 (H, W) in [0, 1]; points are (n, 2), x before y.
"""

import cv2
import numpy as np
from numpy.random import Generator

SHAPES = [
    'disc',
    'triangle',
    'square',
    'hexagon',
    'star',
    'cross',
    'arrow',
    'corner',
    'crescent',
    'bolt',
]
TEXTURES = ['plain', 'stripes', 'checks', 'dots', 'rings', 'spokes', 'ramp', 'speckle']
TURN = 2 * np.pi
_SUBPIXEL_BITS = 4
_REGULAR_CORNERS = {'disc': 36, 'triangle': 3, 'square': 4, 'hexagon': 6}
# fmt: off
_POLYGONS = {
    'cross': ((-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35),
              (1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35)),
    'arrow': ((1, 0), (0.1, -0.85), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.85)),
    'corner': ((-0.9, -0.9), (0.9, -0.9), (0.9, -0.2), (-0.2, -0.2), (-0.2, 0.9), (-0.9, 0.9)),
    'bolt': ((-0.9, -0.7), (0.35, -0.9), (0.15, -0.1), (0.9, -0.2), (-0.4, 1), (-0.1, 0.2),
             (-0.9, 0.2)),
}
# fmt: on


def outline(shape: str) -> np.ndarray:
    """Return the corners (n, 2) of one of `SHAPES`, in the unit circle."""
    if shape in _POLYGONS:
        return np.array(_POLYGONS[shape])
    if shape == 'crescent':
        outer, inner = np.linspace(0.8, 5.48, 24), np.linspace(4.9, 1.38, 24)
        return np.concatenate([_on_circle(outer), (0.55, 0) + 0.75 * _on_circle(inner)])
    if shape == 'star':
        radii = np.where(np.arange(10) % 2, 0.42, 1.0)
        return radii[:, None] * _on_circle(np.arange(10) * TURN / 10)
    corners = _REGULAR_CORNERS[shape]
    return _on_circle(np.arange(corners) * TURN / corners)


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def place(
    points: np.ndarray, centre: np.ndarray, scale: float, angle: float, stretch: float = 1.0
) -> np.ndarray:
    """Stretch, scale, turn and move points.

    Args:
        points: (n, 2), in the unit circle.
        centre: Where their origin goes, in pixels.
        scale: Pixels per unit.
        angle: In radians, clockwise on the screen.
        stretch: x grows by this factor and y shrinks by it, before turning.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    stretched = points * (scale * stretch, scale / stretch)
    return stretched @ np.array([[cos, sin], [-sin, cos]]) + centre


def fill(corners: np.ndarray, size: int) -> np.ndarray:
    """Return the mask of a polygon with these corners (n, 2), in pixels."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [_fixed_point(corners)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def stroke(points: np.ndarray, size: int, width: int) -> np.ndarray:
    """Return the mask of an open line through points (n, 2), ``width`` pixels wide."""
    mask = np.zeros((size, size), np.uint8)
    cv2.polylines(mask, [_fixed_point(points)], False, 255, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)


def over(paint: np.ndarray, upper: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a colour or paint over ``paint`` where the mask says."""
    return paint + mask[..., None] * (upper - paint)


def colour(rng: Generator, unlike: np.ndarray | None = None) -> np.ndarray:
    """Draw a muted colour (3,), its lightness at least 60 away from that of ``unlike``."""
    while True:
        drawn = np.clip(rng.uniform(10, 245) + rng.uniform(-45, 45, 3), 0, 255)
        drawn = drawn.astype(np.float32)
        if unlike is None or abs(drawn.mean() - unlike.mean()) > 60:
            return drawn


def texture(name: str, rng: Generator, size: int, centre: np.ndarray) -> np.ndarray:
    """Return paint in one of `TEXTURES`: two colours, a random direction, period and phase."""
    first = colour(rng)
    second = colour(rng, unlike=first)
    angle, period = rng.uniform(0, TURN), size * rng.uniform(0.1, 0.16)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    u = (x * cos + y * sin) / period + rng.uniform()
    v = (y * cos - x * sin) / period + rng.uniform()
    share = {
        'plain': lambda: np.zeros_like(x),
        'stripes': lambda: 0.5 + 2 * np.sin(TURN * u),
        'checks': lambda: 0.5 + 8 * np.sin(np.pi * u) * np.sin(np.pi * v),
        'dots': lambda: 2 * (np.cos(TURN * u) + np.cos(TURN * v)) - 0.7,
        'rings': lambda: 0.5 + 2 * np.sin(TURN * np.hypot(x, y) / period),
        'spokes': lambda: 0.5 + 4 * np.sin(6 * np.arctan2(y, x) + angle),
        'ramp': lambda: 0.3 + 1.5 * u * period / size,
        'speckle': lambda: 0.5 + 2 * rng.normal(0, 1, x.shape),
    }[name]()
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def ground(rng: Generator, size: int) -> np.ndarray:
    """Return paint of a ramp between two colours, blotches, and small shapes and lines."""
    first, second = colour(rng), colour(rng)
    angle = rng.uniform(0, TURN)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    ramp = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[..., None]
    blotches = rng.normal(0, 1, (5, 5, 3)).astype(np.float32)
    blotches = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    paint = first + ramp * (second - first) + blotches * rng.uniform(5, 35)
    for _ in range(rng.integers(2, 7)):
        ends = rng.uniform(0, size, (2, 2))
        if rng.uniform() < 0.6:
            shape = outline(SHAPES[rng.integers(len(SHAPES))])
            scale = size * rng.uniform(0.04, 0.1)
            mask = fill(place(shape, ends[0], scale, rng.uniform(0, TURN)), size)
        else:
            mask = stroke(ends, size, 1 + size // 64)
        paint = over(paint, colour(rng), mask * rng.uniform(0.5, 1))
    return paint


def photograph(paint: np.ndarray, rng: Generator) -> np.ndarray:
    """Turn paint into an image, RGB uint8 (H, W, 3), with random exposure and noise."""
    exposed = 127.5 + (paint - 127.5) * rng.uniform(0.8, 1.1) + rng.uniform(-15, 15)
    noisy = exposed + rng.normal(0, rng.uniform(1, 6), paint.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
