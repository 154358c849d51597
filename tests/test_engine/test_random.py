"""Random numbers: the loader's workers, and samples by their position."""

import random
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset

from hstpeft.engine.resume.batches import make_resumable, read_samples, seed_samples
from hstpeft.engine.resume.rng import derive_seed, seed_cpu


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


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_sample_depends_on_its_position_alone(num_workers):
    """On no worker, no pass before it, and nothing that was drawn."""
    whole, rest = resumable(0), resumable(num_workers)
    first, second = (torch.cat(list(whole)) for _ in start(whole, 0, 1))
    assert not (first == second).any()
    torch.manual_seed(99)
    rest.batch_sampler.start(1, skip=2)
    assert torch.cat(list(rest)).equal(second[4:])
    rest.batch_sampler.start(0, skip=5)
    assert torch.cat(list(rest)).equal(second[2:]), 'a whole pass and one batch are skipped'


def test_reading_leaves_the_random_state_of_the_training():
    seed_cpu(0)
    expected = Draws()[0]
    seed_cpu(0)
    loader = resumable(0)
    indices = list(loader.batch_sampler)
    assert len(indices) == 4
    for batch in indices:
        read_samples(loader.dataset, batch)
    assert Draws()[0].equal(expected)


def test_a_batch_sampler_of_a_host_gives_the_same_batches():
    plain = resumable(0, drop_last=True, batch_size=3)
    config = dict(type=BatchSampler, drop_last=True)
    wrapped = resumable(0, batch_sampler=config, batch_size=3)
    assert len(plain) == len(wrapped) == 2
    assert wrapped.batch_sampler.drop_last and wrapped.batch_sampler.batch_size == 3
    assert torch.cat(list(plain)).equal(torch.cat(list(wrapped)))


def test_seeds_of_positions_differ():
    seeds = {derive_seed(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(seeds) == 8000


def resumable(num_workers: int, batch_size: int = 2, **options: object) -> DataLoader:
    """Make a loader of `Draws` as `CheckedRunner` does."""
    config = dict(
        dataset=Draws(),
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        **options,
    )
    loader = Runner.build_dataloader(make_resumable(config, 1, 1), seed=1)
    seed_samples(loader)
    return loader


def start(loader: DataLoader, *epochs: int) -> Iterator[int]:
    """Start one pass after the other."""
    for epoch in epochs:
        loader.batch_sampler.start(epoch)
        yield epoch
