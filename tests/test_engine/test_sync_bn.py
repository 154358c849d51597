"""BatchNorm over two processes equals BatchNorm over the joint batch (gloo, no GPU)."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hstpeft.engine.distributed import CPUSyncBatchNorm, DeviceAwareDDP, _synced
from hstpeft.errors import UserError
from tests.support import tiny

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


def joint_rank(rank: int, folder: Path, target: Callable[[int], dict]) -> None:
    """Save what one of two gloo processes found."""
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=WORLD)
    torch.save(target(rank), folder / f'{rank}.pth')
    dist.destroy_process_group()


def converted(rank: int) -> dict[str, torch.Tensor]:
    part = slice(rank * BATCH, (rank + 1) * BATCH)
    return train_step(_synced(make_model()), *(tensor[part] for tensor in data()))


def run_two(target: Callable[[int], dict], folder: Path) -> list[dict]:
    calls = [(joint_rank, rank, folder, target) for rank in range(WORLD)]
    codes = tiny.run_processes(calls, folder / 'log')
    assert codes == [0] * WORLD, (folder / 'log').read_text()
    return [tiny.load(folder / f'{rank}.pth') for rank in range(WORLD)]


def assert_joint(parts: list[dict], expected: dict[str, torch.Tensor]) -> None:
    """Compare the results of two processes with those of the joint batch."""
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


@pytest.mark.slow
def test_X1_a_batch_norm_over_two_processes_is_that_of_the_joint_batch(tmp_path):
    expected = train_step(make_model(), *data())
    assert '0.running_var' in expected and '2.running_mean' in expected
    assert_joint(run_two(converted, tmp_path), expected)


def host_model(norm: type[nn.Module]) -> nn.Module:
    """A backbone's plain BatchNorm, and a head with a synced one, as configs of hosts ask for."""
    torch.manual_seed(0)
    options = dict(momentum=None), dict(track_running_stats=False), dict(momentum=0.3)
    head = nn.Sequential(*(norm(4, **option) for option in options), nn.Flatten())
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return nn.ModuleDict(dict(backbone=nn.BatchNorm2d(4), head=head)).double()


def wrapped(rank: int) -> dict:
    """Train the head, at one value a channel and process, in the wrapper that the tools use."""
    model = DeviceAwareDDP(host_model(nn.SyncBatchNorm), find_unused_parameters=True).module
    kinds = [type(model['backbone']).__name__, *(type(m).__name__ for m in model['head'])]
    x, weight = (tensor[rank : rank + 1] for tensor in single_values())
    return {**train_step(model['head'], x, weight), 'kinds': kinds}


def single_values() -> tuple[torch.Tensor, torch.Tensor]:
    x, weight = data()
    return x[:WORLD, :, :1, :1].clone(), weight[:WORLD, :4]


@pytest.mark.slow
def test_a_sync_bn_of_a_config_works_on_cpus_at_one_value_a_process(tmp_path):
    """torch's own refuses CPU tensors; the plain BatchNorm stays as it is."""
    parts = run_two(wrapped, tmp_path)
    kinds = [part.pop('kinds') for part in parts]
    assert kinds == [['BatchNorm2d', *['CPUSyncBatchNorm'] * 3, 'Flatten']] * WORLD
    expected = train_step(host_model(nn.BatchNorm2d)['head'], *single_values())
    assert_joint(parts, expected)


def single_process(rank: int) -> dict:
    """What one value in all processes gives, and half precision."""
    dist.destroy_process_group()  # each is now the only process of a world of its own
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    with pytest.raises(UserError) as refusal:
        CPUSyncBatchNorm(3)(torch.ones(1, 3, 1, 1))
    x = torch.randn(7, 3, 31, 31) + 2
    half, full = CPUSyncBatchNorm(3), nn.BatchNorm2d(3)
    output = half(x.bfloat16())
    error = (output.float() - full(x.bfloat16().float())).abs().max()
    spread = (half.running_var - full.running_var).abs().max()
    return dict(message=str(refusal.value), dtype=str(output.dtype), error=error, spread=spread)


@pytest.mark.slow
def test_one_value_in_all_is_refused_and_half_precision_counts_right(tmp_path):
    for found in run_two(single_process, tmp_path):
        assert '(1, 3, 1, 1)' in found['message'] and 'larger batches' in found['message']
        assert found['dtype'] == 'torch.bfloat16'
        assert found['error'] < 0.02 and found['spread'] < 1e-4


def test_converted_norms_keep_tensors_options_and_evaluation():
    model = make_model()
    train_step(model, *data())
    synced = _synced(copy.deepcopy(model)).eval()
    assert [type(m) for m in synced if not isinstance(m, nn.Flatten)] == [CPUSyncBatchNorm] * 2
    assert (synced[0].momentum, synced[2].affine) == (0.3, False)
    assert synced.state_dict().keys() == model.state_dict().keys()
    assert synced(data()[0]).equal(model.eval()(data()[0]))
