"""Jobs of two processes (X1 to X8): real ones, of bash, torchrun, its workers and gloo."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.support import rank_hooks, tiny
from tests.support.launchers import finish, start
from tools.test import main as run_test

# No random flip and no drop path: the two processes draw other random numbers than the one.
STILL = """
_base_ = 'hst_tiny.py'
train_dataloader = dict(dataset=dict(pipeline=[_base_.load, dict(type='PackInputs')]))
"""
HOOKED = f"""
_base_ = 'still.py'
{rank_hooks.IMPORTS}
custom_hooks = [*_base_.custom_hooks, dict({{hook}})]
"""
LEAVES = {
    'recorded': "type='RecordHook'",
    'killed': "type='FaultHook', rank=1, step=4, name='SIGKILL'",
    'hung': "type='FaultHook', rank=1, step=4, name='SIGSTOP'",
}
# SGD, since Adam turns the rounding noise of an all but zero gradient into whole steps.
SGD = ('optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.05')
TWO = ('train_dataloader.batch_size=4', 'model_wrapper_cfg.sync_bn=True', *SGD)
TIMEOUT = 15


@pytest.fixture(scope='module')
def folder(trained) -> Path:
    (trained.task.folder / 'still.py').write_text(STILL)
    for name, hook in LEAVES.items():
        (trained.task.folder / f'{name}.py').write_text(HOOKED.format(hook=hook))
    return trained.task.folder


@pytest.fixture(scope='module')
def jobs(trained, folder, tmp_path_factory) -> dict[str, tuple[Path, int, str, str]]:
    """Run all jobs at the same time, so that their ports must not collide.

    Returns:
        By name: the work folder, exit status, stdout and stderr.
    """
    names = ('train', 'recorded', 'killed', 'hung', 'alone', 'test')
    work = {name: tmp_path_factory.mktemp(f'{name} job') for name in names}
    link = trained.task.folder / 'two more words'
    link.symlink_to(trained.task.data)
    recorded = ['model.backbone.tuner.side_heads=[1, 2, 2, 4]', *SGD, 'train_cfg.max_epochs=1']
    recorded += ['train_dataloader.batch_size=4', f'train_dataloader.dataset.data_root={link}']
    records = tmp_path_factory.mktemp('records')

    def train(name: str, leaf: str, *arguments: object, **variables: str):
        folders = ('--work-dir', work[name])
        return start('dist_train.sh', folder / f'{leaf}.py', *arguments, *folders, **variables)

    waits = f'env_cfg.dist_cfg.timeout={TIMEOUT}'
    running = {
        'train': train('train', 'still', 2, '--cfg-options', *TWO),
        'recorded': train(
            'recorded', 'recorded', 2, '--cfg-options', *recorded, RECORDS=str(records)
        ),
        'killed': train('killed', 'killed', 2, '--max-restarts', 2, '--cfg-options', *TWO),
        'hung': train('hung', 'hung', 2, '--cfg-options', *TWO, waits),
        'alone': train('alone', 'still', 1, '--cfg-options', 'train_cfg.max_epochs=1'),
        'test': start(
            'dist_test.sh', trained.task.hst, trained.delta, 2, '--out',
            work['test'] / 'the result.json', '--work-dir', work['test'],
        ),
    }  # fmt: skip
    done = {name: (work[name], *finish(process)) for name, process in running.items()}
    (work['recorded'] / 'records').symlink_to(records)
    return done


@pytest.mark.slow
def test_X1_two_processes_train_the_same_model_as_one(folder, jobs, tmp_path):
    work_dir, status, _, err = jobs['train']
    assert status == 0, err
    one = tiny.train(folder / 'still.py', tmp_path / 'one', options=SGD)
    before = tiny.load(one / 'epoch_1.pth')['state_dict']
    expected = tiny.load(one / 'delta.pth')['state_dict']
    got = tiny.load(work_dir / 'delta.pth')['state_dict']
    assert tiny.spread(expected, before) > 1e-3, 'the training must move the weights'
    assert tiny.spread(expected, got) < 1e-6


@pytest.mark.slow
def test_X1_two_processes_test_like_one(trained, jobs, tmp_path):
    """9 images do not divide by 2: the sampler's padding must not count."""
    work_dir, status, _, err = jobs['test']
    assert status == 0, err
    metrics = run_test(tiny.arguments(trained.task.hst, tmp_path, trained.delta))
    assert json.loads((work_dir / 'the result.json').read_text()) == metrics


@pytest.mark.slow
def test_X1_statistics_of_each_process_are_made_one_before_validation_and_saving(
    folder, jobs, tmp_path, monkeypatch
):
    """Without sync_bn: what was validated is what the delta holds."""
    work_dir, status, _, err = jobs['recorded']
    assert status == 0, err
    first, second = (tiny.load(work_dir / 'records' / f'{rank}.pth') for rank in range(2))
    statistics = [name for name in first['trained'] if name.endswith('running_mean')]
    assert any(not first['trained'][n].equal(second['trained'][n]) for n in statistics)
    assert tiny.same(first['validated'], second['validated'])
    for name in statistics:
        mean = (first['trained'][name] + second['trained'][name]) / 2
        torch.testing.assert_close(first['validated'][name], mean)
    for file in ('epoch_1.pth', 'delta.pth'):
        saved = tiny.load(work_dir / file)['state_dict']
        assert all(saved[name].equal(first['validated'][name]) for name in statistics)

    monkeypatch.setenv('RECORDS', str(tmp_path))
    heads = ['model.backbone.tuner.side_heads=[1, 2, 2, 4]']
    leaf, delta = folder / 'recorded.py', work_dir / 'delta.pth'
    metrics = run_test(tiny.arguments(leaf, tmp_path / 'test', delta, options=heads))
    tested = tiny.load(tmp_path / '0.pth')['predictions']
    validated = {**second['predictions'], **first['predictions']}
    assert tested.keys() == validated.keys() and len(tested) == 9
    for name, scores in tested.items():
        torch.testing.assert_close(scores, validated[name])
    logged = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()[-1]
    assert json.loads(logged)['accuracy/top1'] == metrics['accuracy/top1']


@pytest.mark.slow
def test_X2_a_job_whose_process_was_killed_restarts_and_ends_with_the_same_weights(jobs):
    """Without --resume: a job that torchrun starts again goes on from its own checkpoints."""
    work_dir, status, _, err = jobs['killed']
    assert status == 0 and 'failed (exitcode: -9) local_rank: 1' in err, err
    first, second = (path.read_text() for path in sorted(work_dir.glob('*/*.log')))
    assert 'resumed epoch: 1, iter: 3' in second and 'resumed epoch' not in first
    expected, got = (tiny.load(jobs[n][0] / 'epoch_3.pth') for n in ('train', 'killed'))
    for part in ('state_dict', 'optimizer'):
        assert tiny.same(expected[part], got[part]), part
    deltas = [tiny.load(jobs[name][0] / 'delta.pth')['state_dict'] for name in ('train', 'killed')]
    assert tiny.same(*deltas)


@pytest.mark.slow
def test_X3_a_job_whose_process_hangs_ends_and_says_so_in_one_line(jobs):
    """torchrun gives the stopped process half a minute before it kills it."""
    work_dir, status, _, err = jobs['hung']
    assert status == 1 and not (work_dir / 'delta.pth').exists()
    (line,) = [line for line in err.splitlines() if line.startswith('train.py: error: ')]
    assert 'rank 0 waited for rank 1, which hangs' in line and '--max-restarts' in line
    assert re.search(r'rank +: 0 .*?exitcode +: 4 ', err, re.S)
    assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_1.pth']


@pytest.mark.slow
def test_X4_only_the_first_process_writes(jobs):
    work_dir, status, _, err = jobs['recorded']
    assert status == 0, err
    writes = [tiny.load(work_dir / 'records' / f'{rank}.pth')['writes'] for rank in range(2)]
    assert any(path.endswith('.pth') for path in writes[0]) and writes[1] == []


@pytest.mark.slow
def test_X6_each_process_draws_its_own_masks(jobs):
    work_dir, status, _, err = jobs['recorded']
    assert status == 0, err
    masks = [tiny.load(work_dir / 'records' / f'{rank}.pth')['mask'] for rank in range(2)]
    assert not masks[0].equal(masks[1])


@pytest.mark.slow
def test_X8_the_launcher_takes_one_process_and_no_gpu(jobs):
    work_dir, status, _, err = jobs['alone']
    assert status == 0, err
    assert (work_dir / 'delta.pth').exists()


@pytest.mark.slow
def test_quoted_arguments_arrive_and_jobs_do_not_collide(jobs):
    work_dir, status, _, err = jobs['recorded']
    assert status == 0, err
    config = (work_dir / 'recorded.py').read_text()
    assert 'two more words' in config
    # 24 images, 4 a process and step.
    assert tiny.load(work_dir / 'epoch_1.pth')['meta']['iter'] == 24 // (2 * 4)
    namespace: dict = {}
    exec(config, namespace)
    assert namespace['model']['backbone']['tuner']['side_heads'] == [1, 2, 2, 4]
