"""Draw what a test image looked at in HMA's head: neighbours, local memory, global memories.

    python tools/analysis/hma_attention.py CONFIG DELTA OUT.png [--show 0] [--images 0 1 2 ...]

`--images` are numbers in the config's test set; together they are the batch. The first picture's
row shows the image `--show` and its neighbours by their weight, then come the rows of the local
memory and the global memories, all with their classes. Weights are means over the heads. The
neighbours are read as in training, whatever the model does at test; with `--alone` the image reads
itself and the memories only, as it does by default in a prediction.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure, SubFigure
from mmengine.dataset.utils import default_collate
from mmengine.model import BaseModel
from mmpretrain.registry import DATASETS
from torch import Tensor

from hstpeft.apis import init_model
from hstpeft.engine.launch import OptionAction, add_safe_config
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError, one_line_errors
from hstpeft.models.heads import HMAClsHead
from tools.analysis.hma_looks import UNKNOWN, Looks, look, sum_by_class

GREY = (0.7, 0.7, 0.7)


def read_images(model: BaseModel, numbers: Sequence[int]) -> tuple[Tensor, np.ndarray, list[int]]:
    """Read images of the config's test set.

    Returns:
        What the backbone reads (B, 3, H, W), pictures to show (B, H, W, 3) in RGB, and labels.

    Raises:
        UserError: A number is not in the set.
    """
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    wrong = [n for n in numbers if not 0 <= n < len(dataset)]
    if wrong:
        raise UserError(f'--images {wrong[0]} is not between 0 and {len(dataset) - 1}')
    batch = default_collate([dataset[n] for n in numbers])
    inputs = torch.stack(list(batch['inputs']))
    pictures = inputs.flip(1) if model.data_preprocessor.to_rgb else inputs
    data = model.data_preprocessor({'inputs': inputs, 'data_samples': batch['data_samples']})
    labels = [int(sample.gt_label) for sample in batch['data_samples']]
    return data['inputs'], pictures.permute(0, 2, 3, 1).numpy(), labels


def draw(
    looks: Looks,
    pictures: np.ndarray,
    labels: Sequence[int],
    classes: Sequence[str],
    show: int,
    path: Path,
    top: int = 8,
) -> None:
    """Draw one image's looks.

    Args:
        looks: Of the image.
        pictures: The batch (B, H, W, 3), uint8.
        labels: The batch's labels.
        classes: Names of the classes.
        show: Number of the image in the batch.
        path: PNG file to write.
        top: Neighbours to show.
    """
    figure = Figure(figsize=(1.6 * (top + 1), 8), layout='constrained')
    neighbours, local, memories = figure.subfigures(3, 1, height_ratios=[1.2, 1, 1])
    nearest = looks.neighbours.argsort(descending=True)[:top].tolist()
    titles = [f'{classes[labels[show]]}\nread as {classes[looks.predicted]}']
    titles += [
        f'{looks.neighbours[i]:.3f}\n{"itself" if i == show else classes[labels[i]]}'
        for i in nearest
    ]
    neighbours.suptitle('image, and the neighbours of its batch by weight', fontsize=9)
    _draw_pictures(neighbours, [pictures[i] for i in (show, *nearest)], titles, 1 + top)
    local.suptitle(
        f'local memory (itself {looks.itself_local:.3f})' + _null_key(looks.nothing[0]), fontsize=9
    )
    _draw_weights(local, looks.local, looks.local_classes, classes)
    memories.suptitle('global memories' + _null_key(looks.nothing[1]), fontsize=9)
    _draw_weights(memories, looks.memories, looks.memory_classes, classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _null_key(weight: float) -> str:
    return f', null key {weight:.3f}' if weight > 0 else ''


def _draw_pictures(
    part: SubFigure, pictures: Sequence[np.ndarray], titles: Sequence[str], places: int
) -> None:
    """Draw pictures (H, W, 3) side by side; places that are left over stay empty."""
    axes = part.subplots(1, places)
    for axis in axes:
        axis.axis('off')
    for axis, picture, title in zip(axes, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(title, fontsize=8)


def _draw_weights(part: SubFigure, weights: Tensor, owners: Tensor, classes: Sequence[str]) -> None:
    """Draw weights (N,) one by one, coloured by the class of their rows (N,), and summed by it."""
    colours = colormaps['turbo'](np.linspace(0, 1, len(classes)))
    of_rows = [colours[c] if c != UNKNOWN else GREY for c in owners.tolist()]
    single, by_class = part.subplots(1, 2)
    single.bar(range(len(weights)), weights.tolist(), width=1.0, color=of_rows)
    single.set_xlabel('row, coloured by class (grey: unknown)', fontsize=8)
    sums = sum_by_class(weights, owners, len(classes))
    by_class.bar(range(len(classes)), sums.tolist(), color=colours)
    by_class.set_xlabel('sum by class', fontsize=8)
    if len(classes) <= 20:
        by_class.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)


def main(arguments: list[str] | None = None) -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help='delta or training checkpoint')
    parser.add_argument('out', type=Path, help='PNG file to write')
    parser.add_argument('--images', type=int, nargs='+', default=range(16), help='the batch')
    parser.add_argument('--show', type=int, default=0, help='which image of the batch')
    parser.add_argument('--top', type=int, default=8, help='neighbours to show')
    parser.add_argument('--alone', action='store_true', help='read without the other images')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    add_safe_config(parser)
    options = parser.parse_args(arguments)
    with one_line_errors('hma_attention.py'):
        if not 0 <= options.show < len(options.images):
            raise UserError(
                f'--show {options.show} is not between 0 and {len(options.images) - 1}, the last '
                'of --images'
            )
        model = init_model(
            options.config,
            options.checkpoint,
            'cpu',
            options.cfg_options,
            safe_config=options.safe_config,
        )
        if not isinstance(model.head, HMAClsHead):
            raise UserError(
                f'the head is a {type(model.head).__name__}, not an hstpeft.HMAClsHead: it has no '
                'memories'
            )
        with safe_io():
            inputs, pictures, labels = read_images(model, options.images)
        with torch.no_grad():
            feats = model.extract_feat(inputs)
        looks = look(model.head, feats, options.show, options.alone)
        names = (model.dataset_meta or {}).get('classes')
        names = names or [str(number) for number in range(model.head.num_labels)]
        draw(looks, pictures, labels, names, options.show, options.out, options.top)
    print(f'{options.out}: {names[labels[options.show]]} read as {names[looks.predicted]}')


if __name__ == '__main__':
    main()
