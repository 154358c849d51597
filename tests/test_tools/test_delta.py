"""tools/delta.py: look at, convert and merge deltas."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

from hstpeft.apis import init_model
from hstpeft.delta import load_checkpoint
from tests.support import tiny
from tools.delta import main


def refusal(arguments: list, capsys) -> str:
    with pytest.raises(SystemExit, match='1'):
        main([str(argument) for argument in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('delta.py: error: ')
    return line


def test_info_counts_by_owner(trained, capsys):
    main(['info', str(trained.delta)])
    out = capsys.readouterr().out
    state = tiny.load(trained.delta)['state_dict']
    for owner in ('backbone.trunk', 'backbone.tuner', 'head'):
        values = [value for key, value in state.items() if key.startswith(f'{owner}.')]
        row = next(line for line in out.splitlines() if f' {owner} ' in line)
        assert f' {len(values)} ' in row and f' {sum(v.numel() for v in values):,} ' in row
    identity = init_model(trained.task.hst, device='cpu').backbone.trunk.identity
    for fact in ('kind: delta', f'trunk: {identity}', 'tuner: HSTTuner'):
        assert fact in out.splitlines()
    assert f'bytes: {trained.delta.stat().st_size}' in out


def test_info_knows_a_training_checkpoint(trained, capsys):
    main(['info', str(trained.work_dir / 'epoch_1.pth')])
    assert 'kind: training checkpoint' in capsys.readouterr().out


def test_export_and_import_are_exact(trained, tmp_path):
    exported, imported = tmp_path / 'new' / 'delta.safetensors', tmp_path / 'delta.pth'
    main(['export', str(trained.work_dir / 'epoch_3.pth'), str(exported)])
    main(['import', str(exported), str(imported)])
    expected = load_checkpoint(trained.delta)
    assert tiny.same(load_file(exported), dict(expected['state_dict']))
    sidecar = json.loads(exported.with_suffix('.json').read_text())
    assert sidecar['tuner'] == 'HSTTuner'
    assert sidecar['dataset_meta']['classes'] == list(tiny.CLASSES)
    back = torch.load(imported, weights_only=True)
    assert tiny.same(dict(back['state_dict']), dict(expected['state_dict']))
    assert back['meta'] == sidecar == load_checkpoint(exported)['meta']
    init_model(trained.task.hst, exported, 'cpu')


def test_outputs_need_the_right_suffix(trained, tmp_path, capsys):
    for command in (['export', trained.delta], ['merge', trained.task.hst, trained.delta]):
        line = refusal([*command, tmp_path / 'out.pth'], capsys)
        assert line.endswith('must end in .safetensors')
    line = refusal(['import', trained.delta, tmp_path / 'out.bin'], capsys)
    assert line.endswith('must end in .pth')
    assert not list(tmp_path.iterdir())


def test_files_of_others_are_refused(tmp_path, capsys):
    torch.save({'state_dict': {'weight': torch.ones(1)}}, tmp_path / 'foreign.pth')
    assert 'not one of hstpeft' in refusal(['info', tmp_path / 'foreign.pth'], capsys)
    assert 'does not exist' in refusal(['info', tmp_path / 'nowhere.pth'], capsys)


def test_hst_cannot_be_merged_and_says_why(trained, tmp_path, capsys):
    output = tmp_path / 'vit.safetensors'
    line = refusal(['merge', trained.task.hst, trained.delta, output], capsys)
    assert 'HSTTuner cannot be merged' in line and 'no weight of the trunk can express' in line
    assert not output.exists()


@pytest.fixture(scope='module')
def probe(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('probe')
    return tiny.train(trained.task.linear, folder, options=['train_cfg.max_epochs=1']) / 'delta.pth'


def test_merged_trunk_loads_into_timm(task, probe, tmp_path, capsys):
    output = tmp_path / 'new' / 'vit.safetensors'
    main(['merge', str(task.linear), str(probe), str(output)])
    change = re.search(r'max\|delta logit\| = (\S+)', capsys.readouterr().out)
    assert float(change[1]) == 0
    options = init_model(task.linear, device='cpu').cfg.arch_options
    vit = timm.create_model('vit_tiny_patch16_224', num_classes=0, **options)
    vit.load_state_dict(load_file(output), strict=True)
    assert tiny.same(load_file(output), load_file(task.weights)), 'the probe trains no trunk'


def test_merge_says_by_how_much_a_wrong_tuner_is_off(task, probe, tmp_path, capsys, monkeypatch):
    """The control: the figure is measured, not asserted."""
    from hstpeft.models.tuners import FrozenTuner

    def spoil(self, trunk) -> FrozenTuner:
        trunk.vit.blocks[0].mlp.fc1.weight.data.mul_(1.5)
        return self

    monkeypatch.setattr(FrozenTuner, 'merge', spoil)
    main(['merge', str(task.linear), str(probe), str(tmp_path / 'vit.safetensors')])
    change = re.search(r'max\|delta logit\| = (\S+)', capsys.readouterr().out)
    assert float(change[1]) > 1e-3
