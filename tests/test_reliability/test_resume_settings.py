"""R9: a run that goes on under other settings is refused or warned of, by a table; never silent."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict

from hstpeft.engine.promises import PROMISED_HOOKS
from hstpeft.engine.resume.settings import RULES, changes, check_resume, keep_seed, record
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.resuming import assert_equal, cut_off, state, train

CONFIG = dict(
    model=dict(
        backbone=dict(
            trunk=dict(type='T', weights='a.npz', with_cp=False, arch_options=dict(depth=2)),
            tuner=dict(type='hstpeft.HSTTuner', rank=4),
        ),
        head=dict(num_classes=3, init_cfg=dict(type='A')),
        test_cfg=dict(mode='whole'),
    ),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
    param_scheduler=[dict(type='CosineAnnealingLR', T_max=10)],
    train_cfg=dict(by_epoch=True, max_epochs=10, val_interval=1),
    train_dataloader=dict(
        batch_size=4,
        num_workers=2,
        dataset=dict(data_root='data', pipeline=[dict(type='RandomFlip', prob=0.5)]),
    ),
    randomness=dict(seed=1),
    custom_hooks=[dict(type='EMAHook', momentum=0.1)],
    default_hooks=dict(checkpoint=dict(interval=1)),
    work_dir='work',
)
OTHER = {
    'model.backbone.tuner.rank': (8, 'refused'),
    'model.backbone.tuner.type': ('hstpeft.LoRATuner', 'refused'),
    'model.backbone.trunk.arch_options.depth': (3, 'refused'),
    'model.head.num_classes': (4, 'refused'),
    'model.data_preprocessor': (dict(mean=[0.0] * 3), 'refused'),
    'optim_wrapper.optimizer.lr': (1e-2, 'refused'),
    'optim_wrapper.optimizer.weight_decay': (0.1, 'refused'),
    'optim_wrapper.optimizer.type': ('SGD', 'refused'),
    'optim_wrapper.paramwise_cfg': (dict(token_decay_mult=0.0), 'refused'),
    'param_scheduler.0.T_max': (20, 'refused'),
    'train_cfg.by_epoch': (False, 'refused'),
    'optim_wrapper.type': ('hstpeft.BFloat16OptimWrapper', 'warned'),
    'optim_wrapper.accumulative_counts': (2, 'warned'),
    'optim_wrapper.clip_grad': (dict(max_norm=1.0), 'warned'),
    'train_dataloader.batch_size': (8, 'warned'),
    'train_dataloader.dataset.data_root': ('other', 'warned'),
    'train_dataloader.dataset.pipeline.0.prob': (0.1, 'warned'),
    'randomness.seed': (2, 'warned'),
    'custom_hooks.0.momentum': (0.2, 'warned'),
    'model.backbone.trunk.weights': ('b.npz', 'taken'),
    'model.backbone.trunk.with_cp': (True, 'taken'),
    'model.head.init_cfg.type': ('B', 'taken'),
    'model.test_cfg.mode': ('slide', 'taken'),
    'train_cfg.max_epochs': (20, 'taken'),
    'train_cfg.val_interval': (2, 'taken'),
    'train_dataloader.num_workers': (0, 'taken'),
    'default_hooks.checkpoint.interval': (2, 'taken'),
    'work_dir': ('elsewhere', 'taken'),
}


def changed(key: str, value: object) -> ConfigDict:
    config = ConfigDict(copy.deepcopy(CONFIG))
    *path, last = key.split('.')
    part = config
    for name in path:
        part = part[int(name)] if name.isdigit() else part.setdefault(name, {})
    part[last] = value
    return config


@pytest.mark.parametrize('key', OTHER)
def test_R9_each_setting_is_refused_warned_of_or_taken(key, capsys):
    value, verdict = OTHER[key]
    checkpoint = {'optimizer': {}, 'meta': {'settings': record(ConfigDict(CONFIG))}}
    config = changed(key, value)
    name = key.replace('custom_hooks.0', 'custom_hooks.EMAHook')
    if verdict == 'refused':
        with pytest.raises(UserError, match=r'--resume epoch_1\.pth') as error:
            check_resume(checkpoint, config, 'epoch_1.pth')
        assert name in str(error.value) and '--load-from' in str(error.value)
    else:
        check_resume(checkpoint, config, 'epoch_1.pth')
    said = capsys.readouterr().out
    assert (name in said and 'not that of the unbroken run' in said) == (verdict == 'warned')
    assert bool(said) == (verdict == 'warned')


def test_R9_a_record_holds_plain_values_and_equals_itself():
    before = record(ConfigDict(CONFIG))
    assert changes(before, record(ConfigDict(copy.deepcopy(CONFIG)))) == []
    assert before['processes'] == 1 and before['versions']['torch'] == torch.__version__
    other = changes(before, {**before, 'processes': 2})
    assert [(c.key, c.before, c.now, c.rule) for c in other] == [('processes', 1, 2, 'warned')]


def test_R9_the_table_in_the_documentation_names_every_rule():
    text = (ROOT / 'docs/resume.md').read_text()
    rows = {line.split('|')[1]: line for line in text.splitlines() if line.startswith('|')}
    for pattern, rule in RULES:
        found = [row for keys, row in rows.items() if f'`{pattern}`' in keys]
        assert len(found) == 1, pattern
        assert f'| {rule} |' in found[0], pattern


@pytest.fixture(scope='module')
def whole(leaves, tmp_path_factory) -> Path:
    return train(leaves / 'hst_tiny.py', tmp_path_factory.mktemp('whole'))


@pytest.mark.parametrize(
    'option',
    [
        'optim_wrapper.optimizer.lr=1.0',
        pytest.param('optim_wrapper.optimizer.type=SGD', marks=pytest.mark.slow),
        pytest.param('model.backbone.tuner.side_dims=[16,8,16,16]', marks=pytest.mark.slow),
    ],
)
def test_R9_a_refused_run_is_one_line_and_changes_no_file(leaves, whole, tmp_path, capsys, option):
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth', 'epoch_2.pth', 'delta.pth')
    with pytest.raises(SystemExit) as exit_info:
        train(
            leaves / 'hst_tiny.py', work_dir, '--resume', work_dir / 'epoch_1.pth', options=[option]
        )
    assert exit_info.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'train.py: error: --resume {work_dir / "epoch_1.pth"}: ')
    assert option.partition('=')[0] in last
    assert {p.name for p in work_dir.glob('*.pth')} == {'epoch_1.pth', 'epoch_2.pth', 'delta.pth'}
    assert not list(work_dir.glob('earlier_*'))


def test_R9_another_seed_is_taken_and_said(leaves, whole, tmp_path, capsys):
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth')
    train(leaves / 'hst_tiny.py', work_dir, '--resume', options=['randomness.seed=7'])
    assert 'randomness.seed was 42 and is 7: it is taken' in ''.join(capsys.readouterr())
    assert tiny.load(work_dir / 'epoch_3.pth')['meta']['seed'] == 7
    assert not tiny.same(state(whole / 'epoch_3.pth'), state(work_dir / 'epoch_3.pth'))


def test_R9_a_run_without_a_seed_keeps_the_one_it_drew():
    config = ConfigDict(randomness=dict(seed=None, deterministic=False))
    keep_seed({'meta': {'seed': 5}}, config)
    assert config.randomness == dict(seed=5, deterministic=False)
    keep_seed({'meta': {'seed': 6}}, config)
    assert config.randomness.seed == 5, 'what a config names stands'


def test_R9_more_epochs_are_taken(leaves, whole, tmp_path):
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_3.pth')
    train(leaves / 'hst_tiny.py', work_dir, '--resume', options=['train_cfg.max_epochs=4'])
    assert state(work_dir / 'epoch_4.pth')['iter'] == 12


def test_R9_a_delta_cannot_be_resumed(leaves, whole, tmp_path, capsys):
    with pytest.raises(SystemExit, match='1'):
        train(leaves / 'hst_tiny.py', tmp_path / 'work', '--resume', whole / 'delta.pth')
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'holds weights alone' in last and '--load-from' in last


def test_R9_a_checkpoint_of_an_earlier_version_goes_on(leaves, whole, tmp_path, capsys):
    old = tiny.load(whole / 'epoch_1.pth')
    del old['meta']['settings']
    old['rng_state'] = torch.zeros(1, 8, dtype=torch.uint8)
    (tmp_path / 'work').mkdir()
    torch.save(old, tmp_path / 'work/epoch_1.pth')
    sgd = tmp_path / 'sgd.py'
    optimizer = dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)
    sgd.write_text(
        f'_base_ = "{leaves}/hst_tiny.py"\noptim_wrapper = dict(optimizer={optimizer})\n'
    )
    with pytest.raises(SystemExit, match='1'):
        train(sgd, tmp_path / 'work', '--resume')
    assert 'its optimiser is not SGD' in capsys.readouterr().err.splitlines()[-1]
    train(leaves / 'hst_tiny.py', tmp_path / 'work', '--resume')
    said = [line for line in capsys.readouterr().out.splitlines() if 'has no record' in line]
    assert len(said) == 1
    assert_equal(whole, tmp_path / 'work', 'epoch_3.pth')


def test_R9_a_checkpoint_without_a_record_is_one_line(capsys):
    check_resume({'optimizer': {}, 'meta': {}}, ConfigDict(CONFIG), 'epoch_1.pth')
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and 'epoch_1.pth has no record of its settings' in said[0]


def test_R9_promised_hooks_are_no_change_whether_listed_or_not():
    """A config may replace ``custom_hooks``: the run has the promised ones either way."""
    listed = [*({'type': kind} for kind in PROMISED_HOOKS), *CONFIG['custom_hooks']]
    assert changes(record(CONFIG), record({**CONFIG, 'custom_hooks': listed})) == []
    bare = {**CONFIG, 'custom_hooks': []}
    without = {key: value for key, value in CONFIG.items() if key != 'custom_hooks'}
    assert changes(record(bare), record(without)) == []
    other = {**CONFIG, 'custom_hooks': [{'type': PROMISED_HOOKS[0], 'allow_new_head': True}]}
    assert changes(record(bare), record(other)), 'one with options of its own counts'
