"""BatchNorm over two processes equals BatchNorm over the joint batch (gloo, no GPU)."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hstpeft.engine.distributed import CPUSyncBatchNorm, _synced
from tests import tiny

WORLD, BATCH = 2, 6


def make_model() -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4, momentum=0.3), nn.Flatten(), nn.BatchNorm1d(16, affine=False)]
    for parameter in norms[0].parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(*norms).double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (WORLD * BATCH, 4, 2, 2)
    x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return 3 * x + 1, weight.flatten(1)


def train_step(model: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    x.requires_grad_()
    output = model(x)
    (output.square() * weight).sum().backward()
    results = {'output': output.detach(), 'input gradient': x.grad}
    results.update((f'gradient of {name}', p.grad) for name, p in model.named_parameters())
    return {**results, **dict(model.named_buffers())}


def one_rank(rank: int, folder) -> None:
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=WORLD)
    part = slice(rank * BATCH, (rank + 1) * BATCH)
    results = train_step(_synced(make_model()), *(tensor[part] for tensor in data()))
    torch.save(results, folder / f'{rank}.pth')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_the_joint_batch(tmp_path):
    codes = tiny.run_processes(
        [(one_rank, rank, tmp_path) for rank in range(WORLD)], tmp_path / 'log'
    )
    assert codes == [0] * WORLD, (tmp_path / 'log').read_text()
    parts = [tiny.load(tmp_path / f'{rank}.pth') for rank in range(WORLD)]
    expected = train_step(make_model(), *data())
    assert '0.running_var' in expected and '2.running_mean' in expected
    for name, value in expected.items():
        first, second = (part[name] for part in parts)
        if name in ('output', 'input gradient'):
            got = torch.cat([first, second])
        elif name.startswith('gradient of'):
            got = first + second  # DDP sums over the processes (and divides, as the loss does)
        else:
            assert first.equal(second)
            got = first
        torch.testing.assert_close(got, value, rtol=1e-10, atol=1e-10, msg=name)


def test_converted_norms_keep_tensors_options_and_evaluation():
    model = make_model()
    train_step(model, *data())
    synced = _synced(copy.deepcopy(model)).eval()
    assert [type(m) for m in synced if not isinstance(m, nn.Flatten)] == [CPUSyncBatchNorm] * 2
    assert (synced[0].momentum, synced[2].affine) == (0.3, False)
    assert synced.state_dict().keys() == model.state_dict().keys()
    assert synced(data()[0]).equal(model.eval()(data()[0]))
