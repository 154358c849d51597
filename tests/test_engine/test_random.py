"""Random numbers: packing the state, and the loader's workers."""

import random
import warnings

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

from hstpeft.engine.rng import capture, restore


class Draws(Dataset):
    """Every sample is what the three generators draw for it, as an augmentation would."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def epochs(worker: dict | None, num_workers: int = 2) -> list[torch.Tensor]:
    """Draw two epochs; (samples, generators) each."""
    config = dict(
        dataset=Draws(),
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    if worker:
        config['worker_init_fn'] = worker
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # DataLoader grumbles about more workers than cores
        loader = Runner.build_dataloader(config, seed=42)
        torch.manual_seed(0)
        return [torch.cat(list(loader)) for _ in range(2)]


def test_workers_draw_anew_in_every_epoch_and_differ():
    drawn = torch.cat(epochs(dict(type='hstpeft.seed_worker')))
    for generator, column in zip(('python', 'numpy', 'torch'), drawn.T, strict=True):
        assert len(column.unique()) == len(column), generator


def test_the_default_of_mmengine_repeats_its_draws():
    """The control: why there is a worker function of our own."""
    first, second = epochs(None)
    assert first.equal(second)


def test_worker_draws_follow_the_state_of_the_main_process():
    worker = dict(type='hstpeft.seed_worker')
    assert torch.cat(epochs(worker)).equal(torch.cat(epochs(worker)))


@pytest.mark.parametrize('with_gauss', [False, True])
def test_state_survives_packing(with_gauss):
    if with_gauss:  # both keep the second number of a pair for the next call
        random.gauss(0, 1)
        np.random.standard_normal()
    packed = capture()
    assert packed.dtype == torch.uint8

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(),
            torch.rand(()).item(),
        ]

    first = [draw() for _ in range(3)]
    assert first != [draw() for _ in range(3)]
    restore(packed)
    assert first == [draw() for _ in range(3)]
