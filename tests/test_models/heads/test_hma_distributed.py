"""HMA in two processes: their queues stay equal, whatever each of them has seen."""

from pathlib import Path

import pytest
import torch

from tests.support import tiny
from tests.support.hma_parts import batch, make_vit_classifier
from tests.support.models import images

pytestmark = pytest.mark.slow
SIZES = [(4, 4), (4, 3), (1, 5), (9, 8)]  # samples of each rank, step by step


def train_rank(rank: int, folder: Path, update: str) -> None:
    """Train in one of two processes and save what came out."""
    from hstpeft.engine import DeviceAwareDDP

    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder / "meeting"}', rank=rank, world_size=2
    )
    model = make_vit_classifier(0.9, seed=rank)  # as with mmengine's diff_rank_seed
    model.head.queue.update = update
    parallel = DeviceAwareDDP(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    pointers = []
    for step, sizes in enumerate(SIZES):
        _, samples = batch(sum(sizes), seed=step)
        own = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        x = images(sum(sizes), 3, 32, 32, seed=step)[own]
        optimizer.zero_grad()
        parallel(x, samples[own], mode='loss')['loss'].backward()
        optimizer.step()
        pointers.append(int(model.head.queue.pointer))
    torch.save({'state': model.state_dict(), 'pointers': pointers}, folder / f'{rank}.pth')


def run_two(folder: Path, update: str) -> list[dict]:
    calls = [(train_rank, rank, folder, update) for rank in range(2)]
    codes = tiny.run_processes(calls, folder / 'log')
    assert codes == [0, 0], (folder / 'log').read_text()
    return [torch.load(folder / f'{rank}.pth') for rank in range(2)]


@pytest.fixture(scope='module')
def always(tmp_path_factory) -> list[dict]:
    return run_two(tmp_path_factory.mktemp('always'), 'always')


def test_the_processes_end_with_the_same_state(always):
    first, second = (result['state'] for result in always)
    assert first.keys() == second.keys()
    different = [key for key in first if not first[key].equal(second[key])]
    assert not different


def test_the_rows_are_those_of_all_ranks_in_their_order(always):
    pointers, labels = [], []
    for step, sizes in enumerate(SIZES):
        labels += [int(s.gt_label) for s in batch(sum(sizes), seed=step)[1]]
        pointers.append(len(labels) % 12)
    assert always[0]['pointers'] == pointers
    end = pointers[-1]
    expected = labels[-12:]
    expected = expected[12 - end :] + expected[: 12 - end]
    assert always[0]['state']['head.queue.labels'].tolist() == expected


def test_the_features_are_those_that_one_process_would_remember(tmp_path, always):
    """With the whole batch; the last one alone fills the queue."""
    model = make_vit_classifier(0.9)
    # The copy has moved before the last batch was remembered and not since.
    model.load_state_dict(always[0]['state'])
    x = images(sum(SIZES[-1]), 3, 32, 32, seed=len(SIZES) - 1)
    feats = model.eval().momentum_features(x)[-1]
    end = always[0]['pointers'][-1]
    rows = always[0]['state']['head.queue.rows'][:, :24]
    torch.testing.assert_close(torch.cat([rows[end:], rows[:end]]), feats[-12:])


def test_divisible_counts_the_samples_of_all_processes(tmp_path):
    first, second = run_two(tmp_path, 'divisible')
    # 8, 7, 6 and 17 samples: only 6 divide the 12 rows.
    assert first['pointers'] == second['pointers'] == [0, 0, 6, 6]
    assert first['state']['head.queue.rows'].equal(second['state']['head.queue.rows'])
