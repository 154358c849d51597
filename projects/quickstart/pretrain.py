"""Pre-train the trunk of the quickstart on the task ``objects`` of the renderer.

    PYTHONPATH=. python projects/quickstart/pretrain.py

The class token learns which shape in which texture an image shows; every patch token learns the
same about the object that covers it, and how much of it is covered. Without this dense signal the
class token was still at chance after 400 steps; with it, it is not after 200. Saved are the trunk's
weights under timm's names, without the heads.

Shapes: B batch, N = h * w patches, H W pixels, S shapes, T textures.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pool
from pathlib import Path

# Before torch is imported: threads that spin while they wait stall each other on a shared machine.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import cv2
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from hstpeft.datasets.drawn.cls_scenes import TASKS
from hstpeft.datasets.drawn.elements import SHAPES, TEXTURES, photograph

TASK = 'objects'
ARCH = 'vit_tiny_patch16_224'
ARCH_OPTIONS = dict(img_size=64, patch_size=8, embed_dim=96, depth=8, num_heads=3)
GRID = ARCH_OPTIONS['img_size'] // ARCH_OPTIONS['patch_size']
NUM_CLASSES = len(TASKS[TASK].classes)
Split = tuple[Tensor, Tensor, Tensor]


def draw_sample(seed_and_index: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (H, W, 3) uint8, and how much of each patch is covered (h, w), 0 to 255."""
    rng, label = np.random.default_rng(seed_and_index), seed_and_index[1] % NUM_CLASSES
    paint, mask = TASKS[TASK].draw(label, rng, ARCH_OPTIONS['img_size'])
    cover = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return photograph(paint, rng), np.round(255 * cover).astype(np.uint8)


def draw_split(seed: int, num_samples: int, workers: int) -> Split:
    """Draw images (B, 3, H, W) uint8 with labels (B,) and cover (B, h, w) uint8."""
    with Pool(workers) as pool:
        tasks = [(seed, index) for index in range(num_samples)]
        images, covers = zip(*pool.map(draw_sample, tasks, chunksize=64), strict=True)
    images, covers = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(covers))
    labels = torch.arange(num_samples) % NUM_CLASSES
    return images.permute(0, 3, 1, 2).contiguous(), labels, covers


class ObjectReader(nn.Module):
    """A trunk whose class token and patch tokens are each read by a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model(ARCH, num_classes=0, **ARCH_OPTIONS)
        width, outputs = ARCH_OPTIONS['embed_dim'], len(SHAPES) + len(TEXTURES)
        self.class_head = nn.Linear(width, outputs)
        self.patch_head = nn.Linear(width, outputs + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, S + T), and (B, N, S + T + 1) whose last one is the cover's."""
        tokens = self.trunk.forward_features(images.float() / 127.5 - 1)
        return self.class_head(tokens[:, 0]), self.patch_head(tokens[:, 1:])


def object_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy (B,) of shape and texture from logits (B, S + T)."""
    shapes, textures = logits.split([len(SHAPES), len(TEXTURES)], dim=1)
    shape_loss = F.cross_entropy(shapes, labels // len(TEXTURES), reduction='none')
    return shape_loss + F.cross_entropy(textures, labels % len(TEXTURES), reduction='none')


def total_loss(model: nn.Module, images: Tensor, labels: Tensor, covers: Tensor) -> Tensor:
    """Add what the class token, the covered patches and the cover get wrong."""
    class_logits, patch_outputs = model(images)
    cover = covers.flatten() / 255
    patch_logits, cover_logits = patch_outputs.flatten(0, 1).split([class_logits.shape[1], 1], 1)
    per_patch = object_loss(patch_logits, labels.repeat_interleave(GRID * GRID))
    patch_loss = (cover * per_patch).sum() / cover.sum()
    cover_loss = F.binary_cross_entropy_with_logits(cover_logits[:, 0], cover)
    return object_loss(class_logits, labels).mean() + patch_loss + 2 * cover_loss


def augment(images: Tensor, covers: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Turn a batch by a multiple of 90 degrees and perhaps mirror it: no label changes."""
    turns = int(torch.randint(4, (), generator=generator))
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    images, covers = (torch.rot90(part, turns, (-2, -1)) for part in (images, covers))
    return (images.flip(-1), covers.flip(-1)) if mirrored else (images, covers)


@torch.inference_mode()
def measure_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose shape and texture the class token both tells."""
    model.eval()
    logits = torch.cat([model(part)[0] for part in images.split(200)])
    shapes, textures = logits.split([len(SHAPES), len(TEXTURES)], dim=1)
    guesses = shapes.argmax(dim=1) * len(TEXTURES) + textures.argmax(dim=1)
    return (guesses == labels).float().mean().item()


def train(
    model: nn.Module,
    training: Split,
    validation: Split,
    options: argparse.Namespace,
    after_epoch: Callable[[float], None],
) -> None:
    """Train in place: AdamW, one cosine cycle; ``after_epoch`` gets the accuracy reached."""
    images, labels, covers = training
    steps = len(images) // options.batch_size
    optimizer = torch.optim.AdamW(
        model.parameters(), options.lr, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * steps, pct_start=0.05
    )
    generator, start = torch.Generator().manual_seed(options.seed), time.time()
    for epoch in range(1, options.epochs + 1):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps * options.batch_size].split(options.batch_size):
            turned, covered = augment(images[batch], covers[batch], generator)
            loss = total_loss(model, turned, labels[batch], covered)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        accuracy, spent = measure_accuracy(model, *validation[:2]), time.time() - start
        print(
            f'epoch {epoch}/{options.epochs}: last loss {loss.item():.2f}, accuracy '
            f'{accuracy:.1%}, {spent:.0f} s spent, {spent / epoch * options.epochs - spent:.0f} s '
            'to go',
            flush=True,
        )
        after_epoch(accuracy)


def save_trunk(trunk: nn.Module, path: Path, accuracy: float) -> None:
    """Write the weights; the metadata say how to build the trunk and what it has learned."""
    metadata = dict(
        arch=ARCH,
        arch_options=json.dumps(ARCH_OPTIONS),
        mean=json.dumps([127.5] * 3),
        std=json.dumps([127.5] * 3),
        task=TASK,
        accuracy=f'{accuracy:.4f}',
    )
    save_file(trunk.state_dict(), path, metadata)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    default_out = Path(__file__).parents[2] / 'configs/_base_/trunks/vit-mini_rendered.safetensors'
    parser.add_argument('--out', type=Path, default=default_out, help='default: %(default)s')
    parser.add_argument('--samples', type=int, default=12000, help='training images to draw')
    parser.add_argument('--epochs', type=int, default=16)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--seed', type=int, default=0, help='of weights, images and their order')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='drawing processes')
    parser.add_argument('--compile', action='store_true', help='faster; needs a C++ compiler')
    return parser.parse_args(arguments)


def main() -> None:
    """Draw, train and save."""
    options, start = parse_options(), time.time()
    training = draw_split(options.seed, options.samples, options.workers)
    validation = draw_split(options.seed + 1, 20 * NUM_CLASSES, options.workers)
    print(f'drawn in {time.time() - start:.0f} s', flush=True)
    torch.manual_seed(options.seed)
    model = ObjectReader()
    if options.compile:
        model.compile()
    save = lambda accuracy: save_trunk(model.trunk, options.out, accuracy)  # noqa: E731
    train(model, training, validation, options, save)


if __name__ == '__main__':
    main()
