"""A checkpoint from a stranger runs nothing (S1, S3)."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from hstpeft.delta import load_checkpoint
from hstpeft.errors import UserError
from tests.support import tiny


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        """Make the canary file."""
        return os.system, (f'touch {self.canary}',)


class Attribute:
    """Fetches an attribute of a class that may be loaded, the first step of many attacks."""

    def __reduce__(self):
        """Get a method from which all loaded modules can be reached."""
        return getattr, (HistoryBuffer, '__init__')


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / 'canary'


def test_the_payload_works_where_nobody_takes_care(canary):
    """The control: the attack is a real one."""
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()


@pytest.mark.parametrize('flag', ['--resume', '--load-from'])
def test_pickled_code_is_refused_and_not_run(task, tmp_path, canary, capsys, flag):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {}, 'meta': {'epoch': Payload(canary)}}, path)
    with pytest.raises(SystemExit) as exit_info:
        tiny.train(task.hst, tmp_path / 'work', flag, path)
    assert exit_info.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error == f'train.py: error: checkpoint {path} cannot be read safely: it holds posix.system'
    )
    assert not canary.exists()


def test_attributes_other_than_those_of_the_history_are_refused(tmp_path):
    torch.save({'state_dict': {}, 'meta': {'epoch': Attribute()}}, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match=r'it holds __init__ of <class'):
        load_checkpoint(tmp_path / 'epoch_1.pth')


@pytest.mark.parametrize('guarded', [True, False])
def test_config_text_in_a_checkpoint_is_not_run(trained, tmp_path, canary, guarded):
    """mmengine's resume evaluates meta['config'] as a program."""
    leaf = trained.task.hst
    if not guarded:
        leaf = leaf.with_name('unguarded.py')
        leaf.write_text("_base_ = 'hst_tiny.py'\ncustom_hooks = []\n")
    checkpoint = tiny.load(trained.work_dir / 'epoch_3.pth')
    checkpoint['meta']['config'] = f"import os\nos.system('touch {canary}')\n"
    torch.save(checkpoint, tmp_path / 'epoch_3.pth')
    tiny.train(leaf, tmp_path / 'work', '--resume', tmp_path / 'epoch_3.pth')
    assert not canary.exists()
