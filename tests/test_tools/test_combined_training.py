"""A list of tuners in a config, from the command line to the merged file."""

import re

import pytest
from mmengine.config import Config
from safetensors.torch import load_file

from hstpeft.engine.checks.values import check_values
from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.paths import ROOT
from tools.delta import main

PARTS = "[_base_.tuner, dict(type='hstpeft.SelectiveTuner', parts=['norms'])]"
RANK = 'model.backbone.tuner.0.rank'


def write_leaf(folder, data='data', weights='vit.safetensors'):
    path = folder / 'lora_norms.py'
    path.write_text(
        tiny.LEAF.format(
            root=ROOT, tuner='lora', weights=weights, data=data, tuner_options=PARTS, width=32
        )
    )
    return path


def test_options_of_each_part_are_set_and_checked_by_their_index(tmp_path):
    leaf = write_leaf(tmp_path)
    tuners = load_config(leaf, {RANK: 2}).model.backbone.tuner
    assert [tuners[0].rank, tuners[1].parts] == [2, ['norms']]
    for key, words in (
        ('model.backbone.tuner.0.rnk', r'there is no rnk, .*rank'),
        ('model.backbone.tuner.1.rank', r'there is no rank'),
        ('model.backbone.tuner.2.rank', '2 is not an index below 2'),
        ('tuner.rank', r'set model\.backbone\.tuner\.0\.rank$'),
    ):
        with pytest.raises(UserError, match=words):
            load_config(leaf, {key: 2})
    cfg = load_config(leaf)
    check_values(cfg)
    for value in ('two', 2.5):
        wrong = Config(cfg.to_dict())
        wrong.model.backbone.tuner[0]['rank'] = value
        with pytest.raises(UserError, match=rf'{re.escape(RANK)} .* must be int'):
            check_values(wrong)
    wrong.model.backbone.tuner = ['hstpeft.LoRATuner']
    with pytest.raises(UserError, match=r'model\.backbone\.tuner .* must be'):
        check_values(wrong)


@pytest.mark.slow
def test_a_list_is_trained_and_its_delta_merges_into_a_file_of_timm(tmp_path, capsys):
    task = tiny.make_task(tmp_path)
    leaf = write_leaf(tmp_path, task.data, task.weights)
    options = [f'{RANK}=2', 'train_cfg.max_epochs=1']
    work = tiny.train(leaf, tmp_path / 'work', options=options)
    state = tiny.load(work / 'delta.pth')['state_dict']
    assert state['backbone.trunk.vit.blocks.0.attn.qkv.lora_A.default.weight'].shape == (2, 32)
    assert 'backbone.trunk.vit.blocks.0.norm1.weight' in state
    output = tmp_path / 'merged.safetensors'
    main(
        [
            'merge',
            str(leaf),
            '--cfg-options',
            f'{RANK}=2',
            '--',
            str(work / 'delta.pth'),
            str(output),
        ]
    )
    shown = capsys.readouterr().out
    for what in ('logit', 'feature'):
        assert float(re.search(rf'max\|delta {what}\| = (\S+)', shown)[1]) < 1e-4
    assert load_file(output).keys() == load_file(task.weights).keys()
