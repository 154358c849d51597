"""Every pair of the matrix in two processes: DistributedDataParallel waits for no gradient in vain."""

from pathlib import Path

import pytest
import torch
from mmpretrain.structures import DataSample

from tests.support import matrix, models, tiny

pytestmark = pytest.mark.slow


def train_rank(rank: int, folder: Path) -> None:
    """Take two steps with every pair in one of two processes, on images of its own."""
    from hstpeft.engine import DeviceAwareDDP

    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder / "meeting"}', rank=rank, world_size=2
    )
    trained = {}
    for tuner, trunk in matrix.DEFINED:
        torch.manual_seed(0)
        model = models.build(matrix.classifier(tuner, trunk), seed=None)
        free = {name: p for name, p in model.named_parameters() if p.requires_grad}
        before = models.snapshot(model)
        parallel = DeviceAwareDDP(model).train()
        optimizer = torch.optim.SGD(free.values(), lr=1e-2)
        for step in range(2):  # an unused parameter is an error of the second one
            image = models.images(2, 3, 32, 32, seed=2 * step + rank)
            samples = [DataSample().set_gt_label(label) for label in (0, 1)]
            optimizer.zero_grad()
            losses = parallel(image, samples, mode='loss')
            sum(value for name, value in losses.items() if 'loss' in name).backward()
            optimizer.step()
        trained[f'{tuner}-{trunk}'] = {name: p.detach() for name, p in free.items()}
        assert any(not p.equal(before[name]) for name, p in free.items())
    torch.save(trained, folder / f'{rank}.pth')


def test_two_processes_train_every_pair_and_agree(tmp_path):
    codes = tiny.run_processes(
        [(train_rank, rank, tmp_path) for rank in range(2)], tmp_path / 'log'
    )
    assert codes == [0, 0], (tmp_path / 'log').read_text()[-3000:]
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert len(first) == len(matrix.DEFINED)
    assert tiny.same(first, second)
