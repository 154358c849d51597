"""`tools/delta.py merge-average`: one delta of several."""

from pathlib import Path

import pytest
import torch

from hstpeft.apis import init_model
from hstpeft.delta import load_checkpoint
from hstpeft.delta.digest import digest
from tests.support import tiny
from tools.delta import main


@pytest.fixture
def epochs(trained) -> list[str]:
    return [str(trained.work_dir / f'epoch_{number}.pth') for number in (1, 3)]


def test_two_epochs_of_a_training_are_averaged(trained, epochs, tmp_path, capsys):
    output = tmp_path / 'new' / 'soup.pth'
    main(['merge-average', *epochs, str(output), '--weights', '3', '1'])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f'0.75 x {epochs[0]}', f'0.25 x {epochs[1]}']
    assert printed[2] == f'{output} ({output.stat().st_size:,} bytes)'
    model = init_model(trained.task.hst, output, 'cpu')
    first, last = (tiny.load(Path(path))['state_dict']['head.fc.weight'] for path in epochs)
    expected = (0.75 * first.double() + 0.25 * last.double()).float()
    assert model.head.fc.weight.equal(expected) and not expected.equal(last)
    assert torch.load(output, weights_only=True)['sha256'] == digest(load_checkpoint(output))
    main(['info', str(output)])
    lines = capsys.readouterr().out.splitlines()
    seal = digest(load_checkpoint(epochs[0]))[:12]
    assert f'average of: 0.75 x {epochs[0]} (sha256 {seal})' in lines
    assert f'sha256: {digest(load_checkpoint(output))} (of the contents)' in lines


def test_nothing_is_overwritten_and_mistakes_are_one_line(epochs, tmp_path, capsys):
    cases = {
        'must end in .pth or .safetensors': [*epochs, tmp_path / 'soup.bin'],
        'the last file is the one to be written': epochs,
        'two deltas at least': [epochs[0], tmp_path / 'soup.pth'],
        'does not exist': [epochs[0], tmp_path / 'nowhere.pth', tmp_path / 'soup.pth'],
    }
    before = [Path(path).read_bytes() for path in epochs]
    for message, files in cases.items():
        with pytest.raises(SystemExit, match='1'):
            main(['merge-average', *map(str, files)])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('delta.py: error: ') and message in line
    assert not list(tmp_path.iterdir())
    assert before == [Path(path).read_bytes() for path in epochs]
