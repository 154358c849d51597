"""Draw a folder of scenes, to try the custom leaves without data of your own.

python projects/custom_segmentation/draw.py {masks,coco} ROOT

Objects of ten shapes lie on a ground with clutter. The class is the texture, one of four, which the
small trunk that ships with the project can tell.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from hstpeft.datasets.drawn.dense_folders import CocoLayout, MapLayout, draw_scenes
from hstpeft.datasets.drawn.dense_scenes import DenseScene
from hstpeft.datasets.drawn.elements import SHAPES
from hstpeft.datasets.drawn.elements import TEXTURES as ALL_TEXTURES
from hstpeft.errors import UserError, one_line_errors

TEXTURES = ALL_TEXTURES[:4]
LAYOUTS = dict(
    masks=MapLayout(
        'img_dir/{split}/{index:04d}.png',
        'ann_dir/{split}/{index:04d}.png',
        values=range(1 + len(TEXTURES)),
    ),
    coco=CocoLayout(
        '{split}/{index:04d}.png',
        'annotations/{split}.json',
        categories=dict(enumerate(TEXTURES, start=1)),
    ),
)
NUMBERS = dict(train=160, val=40)
SIZE = (256, 384)


def texture_of(label: int | np.ndarray) -> int | np.ndarray:
    """Return the texture, from 1, of the classes of a scene, which are shapes in textures."""
    return (label + len(SHAPES) - 1) // len(SHAPES)


def by_texture(scene: DenseScene) -> DenseScene:
    """Number the objects of a scene by their textures."""
    return scene._replace(
        labels=texture_of(scene.labels),
        instances=[thing._replace(label=texture_of(thing.label)) for thing in scene.instances],
    )


def draw(kind: str, root: Path) -> None:
    """Draw the splits of one of `LAYOUTS`.

    Raises:
        UserError: The kind is unknown, or the folder exists.
    """
    if kind not in LAYOUTS:
        raise UserError(f'kind {kind!r} is unknown: use one of {list(LAYOUTS)}')
    if root.exists():
        raise UserError(f'ROOT {root} exists: name a new folder, so that no real data is mixed')
    classes = len(SHAPES) * len(TEXTURES)
    for seed, (split, number) in enumerate(NUMBERS.items()):
        scenes = draw_scenes(number, seed, [SIZE], classes, num_objects=(3, 8))
        LAYOUTS[kind].write(root, split, map(by_texture, scenes))
    if kind == 'masks':
        names = ['ground', *TEXTURES]
        (root / 'classes.txt').write_text(''.join(f'{name}\n' for name in names), encoding='utf-8')


def main(arguments: list[str]) -> None:
    """Read the command line, and draw."""
    with one_line_errors('draw.py'):
        if len(arguments) != 2:
            raise UserError(f'arguments {arguments} must be two: masks or coco, and a new folder')
        draw(arguments[0], Path(arguments[1]))


if __name__ == '__main__':
    main(sys.argv[1:])
