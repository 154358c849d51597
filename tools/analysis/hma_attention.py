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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from mmengine.dataset.utils import default_collate
from mmengine.model import BaseModel
from mmpretrain.registry import DATASETS
from torch import Tensor

from hstpeft.apis import init_model
from hstpeft.engine.launch import OptionAction
from hstpeft.errors import UserError, one_line_errors
from hstpeft.models.heads import HMAClsHead

UNKNOWN = -1


@dataclass
class Looks:
    """What one image of a batch looked at; weights are means over the heads.

    Attributes:
        predicted: The class that the head predicts from this.
        itself_local: Weight on itself when it read the local memory.
        local: Weights (M,) on the rows of the local memory, and their classes, -1 = unknown.
        neighbours: Weights (B,) on the images of the batch, itself included.
        memories: Weights (G,) on the global memories, and their classes.
        nothing: Weight on the null keys, local and batch (0 without).
    """

    predicted: int
    itself_local: float
    local: Tensor
    local_classes: Tensor
    neighbours: Tensor
    memories: Tensor
    memory_classes: Tensor
    nothing: tuple[float, float]


@torch.no_grad()
def look(head: HMAClsHead, feats: Sequence[Tensor], show: int, alone: bool = False) -> Looks:
    """Read the attention of one image.

    Args:
        head: In evaluation mode; left as it was.
        feats: Features of the batch, the last being (B, D).
        show: Number of the image in the batch.
        alone: Read without the other images.
    """
    before, head.batch_attention_at_test = head.batch_attention_at_test, not alone
    try:
        _, weights = head.read(feats)
        predicted = int(head(feats)[show].argmax())
    finally:
        head.batch_attention_at_test = before
    count, empty = len(feats[-1]), feats[-1].new_zeros(0)
    local = weights['local'].mean(0)[show] if 'local' in weights else empty
    num_rows = len(head.queue.rows) if head.queue is not None else 0
    batch = weights['batch'].mean(0)[show] if 'batch' in weights else empty
    neighbours = feats[-1].new_zeros(count)
    if len(batch):
        seen = [show] if alone else range(count)
        neighbours[list(seen)] = batch[: len(seen)]
        batch = batch[len(seen) :]
    num_memories = 0 if head.global_memories is None else len(head.global_memories)
    classes = torch.arange(head.num_labels).repeat_interleave(num_memories // head.num_labels)
    return Looks(
        predicted=predicted,
        itself_local=float(local[:1].sum()),
        local=local[1 : 1 + num_rows],
        local_classes=head.queue.labels.clone() if num_rows else classes[:0],
        neighbours=neighbours,
        memories=batch[:num_memories],
        memory_classes=classes,
        nothing=(float(local[1 + num_rows :].sum()), float(batch[num_memories:].sum())),
    )


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
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(1.6 * (top + 1), 8), layout='constrained')
    rows = figure.subfigures(3, 1, height_ratios=[1.2, 1, 1])
    order = looks.neighbours.argsort(descending=True)[:top].tolist()
    axes = rows[0].subplots(1, top + 1)
    titles = [f'{classes[labels[show]]}\nread as {classes[looks.predicted]}']
    titles += [
        f'{looks.neighbours[i]:.3f}\n{"itself" if i == show else classes[labels[i]]}' for i in order
    ]
    for axis in axes:
        axis.axis('off')
    for axis, number, title in zip(axes, [show, *order], titles, strict=False):
        axis.imshow(pictures[number])
        axis.set_title(title, fontsize=8)
    rows[0].suptitle('image, and the neighbours of its batch by weight', fontsize=9)
    colours = pyplot.get_cmap('turbo')(np.linspace(0, 1, len(classes)))
    for part, title, weights, owners, nothing in (
        (
            rows[1], f'local memory (itself {looks.itself_local:.3f})', looks.local,
            looks.local_classes, looks.nothing[0],
        ),
        (rows[2], 'global memories', looks.memories, looks.memory_classes, looks.nothing[1]),
    ):  # fmt: skip
        part.suptitle(title + f', null key {nothing:.3f}' * (nothing > 0), fontsize=9)
        single, by_class = part.subplots(1, 2)
        single.bar(
            range(len(weights)), weights.tolist(), width=1.0,
            color=[colours[c] if c >= 0 else (0.7, 0.7, 0.7) for c in owners.tolist()],
        )  # fmt: skip
        single.set_xlabel('row, coloured by class (grey: unknown)', fontsize=8)
        sums = sum_by_class(weights, owners, len(classes))
        by_class.bar(range(len(classes)), sums.tolist(), color=colours)
        by_class.set_xlabel('sum by class', fontsize=8)
        if len(classes) <= 20:
            by_class.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sum_by_class(weights: Tensor, owners: Tensor, num_classes: int) -> Tensor:
    """Add up weights (N,) by the class of their rows (N,), unknown ones left out."""
    known = owners != UNKNOWN
    return weights.new_zeros(num_classes).index_add(0, owners[known], weights[known])


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
    options = parser.parse_args(arguments)
    with one_line_errors('hma_attention.py'):
        if not 0 <= options.show < len(options.images):
            raise UserError(
                f'--show {options.show} is not between 0 and {len(options.images) - 1}, the last '
                'of --images'
            )
        model = init_model(options.config, options.checkpoint, 'cpu', options.cfg_options)
        if not isinstance(model.head, HMAClsHead):
            raise UserError(
                f'the head is a {type(model.head).__name__}, not an hstpeft.HMAClsHead: it has no '
                'memories'
            )
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
