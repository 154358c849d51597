"""A run looks its paths up once and reads its checkpoint once, safely."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader

from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.engine.checks import paths
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError
from tests.support import tiny
from tools.test import main as run_test

TRAINING = ['train_dataloader.dataset', 'val_dataloader.dataset']


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, bool]]:
    """Each file that torch reads, whoever asks for it: its name, and whether it is read safely."""
    found, load = [], torch.load

    def recorded(file, *args, **kwargs):
        found.append((Path(getattr(file, 'name', file)).name, kwargs.get('weights_only')))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', recorded)
    return found


@pytest.fixture
def looked_up(monkeypatch) -> list[str]:
    """Each data set whose paths are looked up."""
    found, walk = [], paths.dataset_configs

    def recorded(key, dataset):
        found.append(key)
        return walk(key, dataset)

    monkeypatch.setattr(paths, 'dataset_configs', recorded)
    return found


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A work folder of one's own: resuming in it trains nothing."""
    return shutil.copytree(trained.work_dir, tmp_path / 'work')


@pytest.mark.parametrize('named', [True, False])
def test_resume(task, finished, reads, looked_up, named):
    tiny.train(task.hst, finished, '--resume', *([finished / 'epoch_3.pth'] if named else []))
    assert reads == [('epoch_3.pth', True)]
    assert looked_up == TRAINING


def test_resume_reads_the_checkpoint_before_a_damaged_one_once(task, finished, reads):
    newest = finished / 'epoch_3.pth'
    newest.write_bytes(newest.read_bytes()[:1000])
    tiny.train(task.hst, finished, '--resume')
    assert reads == [('epoch_2.pth', True)]  # the other one is seen to be cut before torch reads


def test_load_from(trained, tmp_path, reads, looked_up):
    tiny.train(trained.task.hst, tmp_path, '--load-from', trained.delta, '--dry-run')
    assert reads == [('delta.pth', True)]
    assert looked_up == TRAINING


def test_test_py(trained, tmp_path, reads, looked_up):
    run_test(tiny.arguments(trained.task.hst, tmp_path, trained.delta))
    assert reads == [('delta.pth', True)]
    assert looked_up == ['test_dataloader.dataset']


def test_what_has_been_read_is_let_go_when_it_is_loaded(trained, tmp_path):
    cfg = load_config(trained.task.hst, {'load_from': str(trained.delta), 'launcher': 'none'})
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg, checkpoint=load_checkpoint(trained.delta))
    assert list(runner.checkpoints) == [str(trained.delta)]
    runner.load_or_resume()
    assert runner.checkpoints == {}
    runner.load_checkpoint(str(trained.work_dir / 'epoch_1.pth'))
    first = tiny.load(trained.work_dir / 'epoch_1.pth')['state_dict']
    assert tiny.same(dict(runner.model.state_dict()), dict(first))


def test_a_published_delta_gives_what_the_training_reported(trained, tmp_path):
    path = tmp_path / 'delta.safetensors'
    save_delta(load_checkpoint(trained.delta), path)
    expected = run_test(tiny.arguments(trained.task.hst, tmp_path, trained.delta))
    assert run_test(tiny.arguments(trained.task.hst, tmp_path, path)) == expected


def test_mmengine_has_its_own_reader_back_even_after_a_refusal(trained, tmp_path):
    foreign = tmp_path / 'foreign.pth'
    torch.save({'weight': torch.ones(2)}, foreign)
    cfg = load_config(trained.task.hst, {'launcher': 'none', 'work_dir': str(tmp_path)})
    with pytest.raises(UserError, match='no state_dict'):
        build_runner(cfg).load_checkpoint(str(foreign))
    assert CheckpointLoader.load_checkpoint(str(foreign))['weight'].equal(torch.ones(2))
