"""hstpeft.apis.publish: a small file whose name can be checked with sha256sum."""

import subprocess

import pytest
import torch

from hstpeft.apis import init_model, publish
from hstpeft.errors import UserError
from tests.support import tiny


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_name_holds_the_hash_of_the_file(trained, tmp_path, suffix):
    path = publish(trained.work_dir / 'epoch_3.pth', tmp_path / f'hst{suffix}')
    said = subprocess.run(['sha256sum', path], capture_output=True, text=True, check=True).stdout
    assert path.name == f'hst-{said[:8]}{suffix}'
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    model = init_model(trained.task.hst, path, 'cpu')
    assert tiny.same(dict(model.state_dict()), dict(tiny.load(trained.delta)['state_dict']))
    assert model.dataset_meta['classes'] == list(tiny.CLASSES)


def test_nothing_of_the_run_is_published(trained, tmp_path):
    path = publish(trained.work_dir / 'epoch_3.pth', tmp_path / 'hst.pth')
    content = torch.load(path, weights_only=True)
    assert content.keys() == {'state_dict', 'meta', 'sha256'}
    assert content['meta'].keys() == {'epoch', 'iter', 'dataset_meta', 'trunk', 'tuner', 'versions'}
    assert path.stat().st_size < (trained.work_dir / 'epoch_3.pth').stat().st_size / 2
    assert str(trained.work_dir).encode() not in path.read_bytes()


def test_other_suffixes_and_files_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r'must end in \.safetensors or \.pth'):
        publish(trained.delta, tmp_path / 'hst.bin')
    torch.save({'state_dict': {'weight': torch.ones(1)}}, tmp_path / 'foreign.pth')
    with pytest.raises(UserError, match='not one of hstpeft'):
        publish(tmp_path / 'foreign.pth', tmp_path / 'hst.pth')
    assert [file.name for file in tmp_path.iterdir()] == ['foreign.pth']
