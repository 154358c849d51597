"""Mistakes of usage (U1, U2, U3, U5, U6): one line that names key, value and remedy, and no traceback."""

import importlib
import re
import shutil
import socket
import sys

import pytest

from hstpeft.engine.checks import values
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import common_parser
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.paths import ROOT
from tools.train import main

TRUNK, TUNER = 'model.backbone.trunk', 'model.backbone.tuner'
DID = 'did you mean '
# Typed, or set by a child config; and what the line says.
OPTIONS = {
    'train_cgf.max_epochs=1': rf"train_cgf\.max_epochs: there is no train_cgf, {DID}'train_cfg'\?",
    f'{TUNER}.num_meta_token=2': rf"no num_meta_token, {DID}'num_meta_tokens'\?",
    'tuner.num_meta_tokens=2': rf'would change nothing, .+: set {re.escape(TUNER)}\.num_meta_tokens',
    'vtab_num_classes.cifar=2': r'vtab_num_classes\.cifar would change nothing: ',
    f'{TUNER}.type=hstpeft.HSTTunner': rf"'hstpeft\.HSTTunner' is unknown: {DID}'hstpeft\.HSTTuner'",
    'model.head.type=mmpretrain.LinearHead': r'config: model\S* .+LinearHead is not in ',
    'optim_wrapper.optimizer.type=AdamWW': r'config: optim_wrapper\S* .+AdamWW is not in ',
    'optim_wrapper.optimizer.lr=abc': r"optim_wrapper\.optimizer\.lr 'abc' must be ",
    'env_cfg.xyz=1': r'env_cfg\.xyz: there is no xyz, ',
    'auto_scale_lr.enabl=True': rf"enabl True is read by nobody: {DID}'enable'|there is no enabl",
    'default_scope=nonsense': r"default_scope 'nonsense' is no installed package with registries",
    'train_cfg.max_epochs=-1': r'train_cfg\.max_epochs -1 must be a whole number from 1$',
    'model.data_preprocessor.std=3.7': r'std 3\.7 must be a list of one number per channel$',
    f'{TUNER}.side_dims.0=8': r'side_dims\.0=8 cannot be set .+ a list as a whole, \[a,b\]$',
    'default_hooks.checkpoint.interval=0': r'checkpoint\.interval 0 must be ',
    'optim_wrapper.clip_gard.max_norm=1': rf"there is no clip_gard, {DID}'clip_grad'\?",
    'resume=abc': r"resume 'abc' must be True or False$",
}  # fmt: skip
CHILDREN = {
    'model = dict(backbone=dict(tuner=dict(num_meta_tokenz=2)))': rf"{DID}'num_meta_tokens'\?",
    "model = dict(head=dict(topq=(1,)))": r"head.+(topq|no argument)",
    'env_cfg = dict(xyz=1)': r'env_cfg\.xyz 1 is read by nobody: known: cudnn_benchmark',
    'auto_scale_lr = dict(enabl=True)': rf"auto_scale_lr\.enabl True .+ {DID}'enable'\?",
    'train_dataloader = []': r'train_dataloader \[\] must be dict',
    'train_cgf = dict()': rf"train_cgf .+ would change nothing, .+: {DID}'train_cfg'",
    'lr = 3': r'lr = 3 would change nothing, .+: set optim_wrapper\.optimizer\.lr$',
    'max_iters = 3': r'max_iters = 3 would change nothing, since nothing reads max_iters at top',
    'batch_size = 4': r'batch_size = 4 would change nothing, .+ set .*train_dataloader\.batch_size or',
    'tuner = dict(num_meta_tokens=2)': r'would change nothing, .+: set model\.backbone\.tuner',
    "optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=float('nan')))": r'mult nan must be',
    "param_scheduler = [dict(type='LinearLR', begin=0, end=True)]": r'0\.end True must be int',
    "optim_wrapper = dict(optimizer=dict(momentun=1))": r"'momentun'",
    "train_dataloader = dict(dataset=dict(pipeline=[dict(type='RandomFlip', probb=1)]))":
        rf"train_dataloader\.dataset\S* .+'probb', {DID}'prob'\?",
}  # fmt: skip


def refusal(arguments: list[str], capsys, status: int = 1) -> str:
    """Run tools/train.py and return what it says, in one line and without a traceback."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == status
    tiny.let_go(exit_info.value)
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    assert error.count(': error: ') == 1
    return error.splitlines()[-1].partition(': error: ')[2]


@pytest.mark.parametrize('option', OPTIONS)
def test_U1_wrong_option_is_one_line(task, tmp_path, capsys, option):
    line = refusal(tiny.arguments(task.hst, tmp_path / 'w', options=[option]), capsys)
    assert re.search(OPTIONS[option], line), line


@pytest.mark.parametrize('text', CHILDREN)
def test_U1_wrong_line_of_a_child_config_is_one_line(task, tmp_path, capsys, text):
    path = tmp_path / 'child.py'
    path.write_text(f'_base_ = {str(task.hst)!r}\n{text}\n')
    line = refusal(tiny.arguments(path, tmp_path / 'w'), capsys)
    assert re.search(CHILDREN[text], line), line


# Read by mmengine where a config of ours names them nowhere.
VALID = [
    ['optim_wrapper.clip_grad.max_norm=1.0'],
    ['optim_wrapper.accumulative_counts=2'],
    ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic'],
    ['train_cfg.val_begin=2'],
    ['val_cfg.fp16=True'],
    ['log_processor.window_size=5'],
    ['auto_scale_lr.enable=True'],
    ['env_cfg.resource_limit=1024'],
    ['default_hooks.visualization.type=VisualizationHook'],
    ['custom_hooks.0.priority=50'],
    ['compile=False'],
]


@pytest.mark.parametrize('options', VALID, ids=' '.join)
def test_U1_valid_options_that_no_config_names_are_taken(task, options):
    typed = common_parser('').parse_args(['x.py', '--cfg-options', *options]).cfg_options
    cfg = load_config(task.hst, typed)
    values.check_values(cfg)
    for key, value in typed.items():
        node = cfg.to_dict()
        for part in key.split('.'):
            node = node[int(part) if part.isdigit() else part]
        assert node == value


def test_U1_modules_that_an_option_names_are_imported_or_missed(task, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'trial_module.py').write_text('')
    load_config(task.hst, {'custom_imports.imports': 'trial_module'})
    assert sys.modules.pop('trial_module')
    with pytest.raises(UserError, match=r'custom_imports\.imports=trial_modula: .*import'):
        load_config(task.hst, {'custom_imports.imports': 'trial_modula'})


@pytest.mark.parametrize('typed', [['train_cfg.max_epochs', '3'], ['=3'], ['model.x=[1,2']])
def test_U1_what_is_no_key_and_value_is_a_mistake_of_the_command(task, tmp_path, capsys, typed):
    line = refusal(tiny.arguments(task.hst, tmp_path / 'w', options=typed), capsys, status=2)
    assert f'--cfg-options {typed[0]!r}' in line


WRONG_SHAPES = {
    # The maps of a tuner with a side network are its own.
    'model.backbone.out_indices=[0,1,9]': r'out_indices .*9',
    f'{TUNER}.tap_indices=[0,1,2,9]': r'tap_indices .*9',
    f'{TRUNK}.arch=vit_tiny_patch16_225': rf"'vit_tiny_patch16_225' is not a timm model: {DID}",
    f'{TRUNK}.arch_options.img_size=[1,2]': r'img_size \[1, 2\] .+ patch',
    f'{TRUNK}.arch_options.img_size=36': r'img_size 36 .+ patch',
}


@pytest.mark.parametrize('option', WRONG_SHAPES)
def test_U2_wrong_indices_and_image_sizes(task, tmp_path, capsys, option):
    line = refusal(tiny.arguments(task.hst, tmp_path / 'w', options=[option]), capsys)
    assert re.search(WRONG_SHAPES[option], line), line


def test_U3_missing_host_gives_the_pip_line(task, monkeypatch):
    monkeypatch.setattr(values.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"default_scope 'mmdet' .+ pip install onedl-mmdetection$"):
        load_config(task.hst, {'default_scope': 'mmdet'})


def test_U3_missing_package_of_a_part_gives_the_pip_line(task, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'neptune', None)
    backend = '[{"type": "NeptuneVisBackend"}]'
    options = [f'visualizer.vis_backends={backend}']
    line = refusal(tiny.arguments(task.hst, tmp_path / 'w', options=options), capsys)
    assert re.search(r'visualizer.+pip install .*neptune', line), line


VALUES = {
    'a b': 'a b',
    '"a,b"': 'a,b',
    "it's": "it's",
    '"two words"': 'two words',
    'a,b': ['a', 'b'],
    '[1,2]': [1, 2],
    '[1, 2]': [1, 2],
    "['traffic light','car']": ['traffic light', 'car'],
    '{"type": "SGD", "lr": 0.1}': {'type': 'SGD', 'lr': 0.1},
    'x=y': 'x=y',
    '': '',
    'None': None,
    'true': True,
}


@pytest.mark.parametrize('text', VALUES)
def test_U5_values_keep_their_blanks_quotes_and_commas(text):
    options = common_parser('x').parse_args(['c.py', '--cfg-options', f'key={text}'])
    assert options.cfg_options == {'key': VALUES[text]}


def test_U5_config_and_data_in_folders_with_blanks_quotes_and_commas(task, tmp_path):
    folder = tmp_path / "two words, it's 'mine'"
    shutil.copytree(task.data, folder / 'data')
    config = folder / 'my config.py'
    config.write_text(f'_base_ = {str(task.hst)!r}\ntrain_cfg = dict(max_epochs=1)\n')
    root = f'train_dataloader.dataset.data_root="{folder}/data"'
    work = tiny.train(config, folder / 'work', '--no-validate', options=[root])
    assert (work / 'delta.pth').is_file()


@pytest.fixture
def _no_network(monkeypatch):
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in ('127.0.0.1', '::1'):
            raise AssertionError(f'a connection to {address}')
        connect(self, address)

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(
        socket, 'getaddrinfo', lambda host, *_, **__: pytest.fail(f'asks for {host}')
    )


@pytest.mark.usefixtures('_no_network')
def test_U6_the_network_is_off_in_these_tests():
    with pytest.raises(AssertionError, match='a connection to'), socket.socket() as client:
        client.connect(('192.0.2.1', 80))


TOOLS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / 'tools').rglob('*.py')
    if 'parse_args' in path.read_text() and '__main__' in path.read_text()
)


@pytest.mark.usefixtures('_no_network')
@pytest.mark.parametrize('tool', TOOLS)
def test_U6_help_of_every_tool_without_network(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    module = importlib.import_module(tool.removesuffix('.py').replace('/', '.'))
    with pytest.raises(SystemExit, match=r'^0$'):
        module.main()
    assert 'usage' in capsys.readouterr().out


@pytest.mark.usefixtures('_no_network')
def test_U6_training_without_network(task, tmp_path):
    work = tiny.train(task.hst, tmp_path / 'w', options=['train_cfg.max_epochs=1'])
    assert (work / 'delta.pth').is_file()
