"""Each task part on each kind of backbone: training, evaluation, resume, test and inference.

Through the shipped tools and the hosts' own runner, data sets, metrics and inference functions, on
wide and tall images whose sides are no multiples of anything.
"""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from PIL import Image
from torch import nn

from tests.support import dense_hosts, tiny
from tools.test import main as run_test

pytestmark = pytest.mark.host
# One case a host goes all the way in the fast tier.
FAST = (('semantic-fpn', 'hst'), ('atss', 'hst'))
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST))
    for case in (
        *itertools.product(dense_hosts.TASKS, dense_hosts.SYSTEMS),
        *itertools.product(dense_hosts.FURTHER_TASKS, dense_hosts.FURTHER_SYSTEMS),
    )
]


@pytest.mark.parametrize('task, system', CASES)
def test_trains_resumes_tests_and_infers(task, system, shared, tmp_path, need_host):
    need_host(dense_hosts.TASKS[task].host)
    leaf = dense_hosts.write_leaf(task, system, tmp_path, shared)
    whole = tiny.train(leaf, tmp_path / 'whole')
    assert_evaluated(whole, dense_hosts.TASKS[task].metric)

    resumed = stopped(whole, tmp_path / 'resumed')
    tiny.train(leaf, resumed, '--resume')
    assert_equal(whole, resumed)

    predictions = tmp_path / 'predictions'
    metrics = metrics_of(leaf, resumed, predictions)
    model = host_model(leaf, resumed / 'delta.pth')
    assert_all_trained(model, leaf, resumed)
    if dense_hosts.TASKS[task].host == 'mmseg':
        found = accuracy(model, dense_hosts.data_root('mmseg', shared))
        assert found == pytest.approx(metrics['aAcc'], abs=0.0051), 'IoUMetric rounds to 0.01'
    else:
        assert_detects(model, dense_hosts.data_root('mmdet', shared), predictions)


def assert_evaluated(work_dir: Path, metric: str) -> None:
    """The host's metric has been logged where the tests go on, and at the end."""
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    logged = [json.loads(line) for line in scalars.splitlines()]
    assert [line['step'] for line in logged if metric in line] == [
        dense_hosts.KEPT,
        dense_hosts.ITERS,
    ]
    losses = [line['loss'] for line in logged if 'loss' in line]
    assert len(losses) == dense_hosts.ITERS and np.isfinite(losses).all()


def stopped(whole: Path, work_dir: Path) -> Path:
    """Make the folder of a run that ended before its last iteration."""
    work_dir.mkdir()
    shutil.copy(whole / f'iter_{dense_hosts.KEPT}.pth', work_dir)
    return work_dir


def assert_equal(whole: Path, resumed: Path) -> None:
    """Weights, optimiser, schedule and iteration count have gone on as if never stopped."""
    expected, got = (
        tiny.load(folder / f'iter_{dense_hosts.ITERS}.pth') for folder in (whole, resumed)
    )
    assert got['meta']['iter'] == dense_hosts.ITERS
    assert not (resumed / 'iter_1.pth').exists(), 'it must not start again'
    before = tiny.load(whole / f'iter_{dense_hosts.KEPT}.pth')['state_dict']
    assert tiny.spread(expected['state_dict'], before) > 1e-5, 'the last iteration must move them'
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert tiny.same(expected[part], got[part]), part


def metrics_of(leaf: Path, work_dir: Path, predictions: Path) -> dict[str, float]:
    """Test a delta by the tool; a detector's boxes are written beside."""
    host = Config.fromfile(leaf).default_scope
    options = [f'test_evaluator.outfile_prefix={predictions}'] if host == 'mmdet' else []
    return run_test(
        tiny.arguments(leaf, work_dir / 'test', work_dir / 'delta.pth', options=options)
    )


def host_model(leaf: Path, delta: Path) -> nn.Module:
    """Build a model and load a delta as the host does it."""
    if Config.fromfile(leaf).default_scope == 'mmseg':
        from mmseg.apis import init_model

        return init_model(str(leaf), str(delta), device='cpu')
    from mmdet.apis import init_detector

    return init_detector(str(leaf), str(delta), device='cpu')


def assert_all_trained(model: nn.Module, leaf: Path, work_dir: Path) -> None:
    """Every trainable parameter got a gradient (DDP waits for it), the backbone's not of zeros."""
    wrapper = build_optim_wrapper(model, Config.fromfile(leaf).optim_wrapper)
    wrapper.load_state_dict(tiny.load(work_dir / f'iter_{dense_hosts.ITERS}.pth')['optimizer'])
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    state = wrapper.optimizer.state
    assert [name for name, p in trainable.items() if p not in state] == []
    own = {name: p for name, p in trainable.items() if name.startswith('backbone.')}
    # A bias of the keys changes no attention.
    idle = [name for name, p in own.items() if not state[p]['exp_avg'].any()]
    assert [name for name in idle if not name.endswith('.attn.k.bias')] == []
    assert len(own) > 2 * len(idle)


def accuracy(model: nn.Module, root: Path) -> float:
    """Percent of pixels that the host's inference, an image at a time, gets right."""
    from mmseg.apis import inference_model

    right = total = 0
    for path in sorted((root / 'img_dir/test').iterdir()):
        truth = np.array(Image.open(root / 'ann_dir/test' / path.name))
        predicted = inference_model(model, str(path)).pred_sem_seg.data[0].numpy()
        assert predicted.shape == truth.shape
        right, total = right + (predicted == truth).sum(), total + truth.size
    return 100 * right / total


def assert_detects(model: nn.Module, root: Path, predictions: Path) -> None:
    """The host's inference, an image at a time, finds what its test has found."""
    from mmdet.apis import inference_detector

    found = json.loads(Path(f'{predictions}.bbox.json').read_text())
    dataset = model.cfg.test_dataloader.dataset
    images = json.loads((root / dataset.ann_file).read_text())['images']
    assert len(images) == 2
    for image in images:
        expected = [box for box in found if box['image_id'] == image['id']]
        path = root / dataset.data_prefix.img / image['file_name']
        got = inference_detector(model, str(path)).pred_instances.numpy()
        assert len(expected) == len(got) > 0
        assert got.scores.tolist() == [box['score'] for box in expected]
        sides = np.concatenate([got.bboxes[:, :2], got.bboxes[:, 2:] - got.bboxes[:, :2]], axis=1)
        assert np.array_equal(sides, np.float32([box['bbox'] for box in expected]))
        if 'masks' in got:
            assert got.masks.shape == (len(got), image['height'], image['width'])


@pytest.mark.slow
@pytest.mark.parametrize('task', dense_hosts.TASKS)
def test_a_batch_of_one_trains(task, shared, tmp_path, need_host):
    """One image leaves one value a channel behind UperNet's pooling: no BatchNorm trains on that."""
    need_host(dense_hosts.TASKS[task].host)
    norm = dict(type='GN', num_groups=4) if task == 'upernet' else None
    leaf = dense_hosts.write_leaf(task, 'hst', tmp_path, shared, norm_cfg=norm)
    work_dir = tiny.train(
        leaf, tmp_path / 'work', '--dry-run', options=['train_dataloader.batch_size=1']
    )
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    first = json.loads(scalars.splitlines()[0])
    assert first['iter'] == 1 and 0 < first['loss'] < 100
    assert tiny.load(work_dir / 'delta.pth')['meta']['iter'] == 1
