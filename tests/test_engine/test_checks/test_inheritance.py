"""What a config file sets to no effect is refused; what has an effect, or is a helper, is not."""

from pathlib import Path

import pytest

from hstpeft.engine.checks.inheritance import misspelt
from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from tests.support import tiny

CONFIGS = tiny.ROOT / 'configs'
HST = CONFIGS / 'hst/hst_vit-ti16_1xb32-12e_vtab-1k.py'
LINEAR = CONFIGS / 'linear/linear_vit-ti16_1xb32-10e_vtab-1k.py'
FROZEN = CONFIGS / 'frozen/frozen_vit-ti16_semantic-fpn_1xb4-300i_camvid.py'
SWIN = CONFIGS / 'arc/arc_swin-b_upernet_8xb2-160k_ade20k-512x512.py'


def write(path: Path, text: str, *bases: Path | str) -> Path:
    path.write_text(f'_base_ = {[str(base) for base in bases]}\n{text}\n')
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_config(path)
    return str(error.value)


LATE = {
    'trunk': (HST, "dict(arch='vit_base_patch16_224')", 'model.backbone.trunk'),
    'tuner': (HST, 'dict(_base_.tuner, num_meta_tokens=2)', 'model.backbone.tuner'),
    'neck': (HST, "dict(type='hstpeft.PooledNorm', eps=1e-05)", 'model.neck'),
    'img_norm': (HST, 'dict(mean=[0.0] * 3)', 'model.data_preprocessor'),
    'num_classes': (
        LINEAR, '7',
        'model.head.num_classes and test_dataloader.dataset.num_classes and '
        'train_dataloader.dataset.num_classes and val_dataloader.dataset.num_classes',
    ),
    'embed_dims': (LINEAR, '384', 'model.head.in_channels'),
    'stage_dims': (
        SWIN, '[96, 192, 384, 768]',
        'model.decode_head.in_channels and model.auxiliary_head.in_channels',
    ),
    'ignore_index': (
        FROZEN, '255',
        'model.decode_head.ignore_index and model.data_preprocessor.seg_pad_val and ',
    ),
}  # fmt: skip


@pytest.mark.parametrize('key', LATE)
def test_a_key_that_the_model_has_been_composed_from_is_refused_with_its_place(key, tmp_path):
    leaf, value, target = LATE[key]
    said = refusal(write(tmp_path / 'child.py', f'{key} = {value}', leaf))
    assert said.startswith(f'config {tmp_path}/child.py: {key} = {value} would change nothing')
    if target:
        assert f', since the model has been composed from it: set {target}' in said
    else:
        assert said.endswith(
            'set the keys of model, data loaders or optimiser that were made from it'
        )


def test_it_is_refused_in_a_base_and_over_two_files_too(tmp_path):
    middle = write(tmp_path / 'middle.py', 'num_classes = 7', LINEAR)
    child = write(tmp_path / 'child.py', 'train_cfg = dict(max_epochs=2)', middle)
    assert refusal(child).startswith(f'config {middle}: num_classes = 7 would change nothing')
    middle.write_text(f"_base_ = '{LINEAR}'\n")
    child = write(tmp_path / 'child.py', 'num_classes = 7', './middle.py')
    assert refusal(child).startswith(f'config {child}: num_classes = 7 would change nothing')


@pytest.mark.parametrize(
    'text',
    [
        'vtab_task = "svhn"',
        'data_root = "elsewhere"',
        'if True:\n    num_classes = 7',
        'num_classes: int = 7',
        'trunk, tuner = dict(), dict()',
        # The model is made of what the base has, not of what this file has just set.
        'num_classes = 7\nmodel = dict(head=dict(num_classes=_base_.num_classes))',
        # It goes into a helper that goes nowhere.
        'tuner = dict(_base_.tuner)\nbackbone = dict(tuner=tuner)',
    ],
)
def test_other_ways_to_change_nothing(text, tmp_path):
    assert ' would change nothing' in refusal(write(tmp_path / 'child.py', text, LINEAR))


@pytest.mark.parametrize(
    ('text', 'read'),
    [
        ('model = dict(head=dict(num_classes=7))', lambda c: c.model.head.num_classes == 7),
        (
            'num_classes = 7\nmodel = dict(head=dict(num_classes=num_classes))',
            lambda c: c.model.head.num_classes == c.num_classes == 7,
        ),
        (
            'tuner = dict(num_meta_tokens=2)\nbackbone = dict(tuner=tuner)\n'
            'model = dict(backbone=backbone)\ndel backbone',
            lambda c: c.model.backbone.tuner.num_meta_tokens == 2,
        ),
        ('num_classes = 7\ndel num_classes', lambda c: c.num_classes == 100),
        ('my_lr = 0.5\noptim_wrapper = dict(optimizer=dict(lr=my_lr))', lambda c: c.my_lr == 0.5),
        ('note = dict(author="me")\nclasses = ("a", "b")', lambda c: c.note.author == 'me'),
        (
            'lengths = [length for length in (1, 2)]\ntrain_cfg = dict(max_epochs=lengths[-1])',
            lambda c: c.train_cfg.max_epochs == 2,
        ),
        (
            'custom_hooks = [*_base_.custom_hooks, dict(type="EMAHook")]',
            lambda c: c.custom_hooks[-1].type == 'EMAHook',
        ),
        (
            'img_norm = dict(mean=[0.0] * 3)\nfor key in ("mean",):\n'
            '    model = dict(data_preprocessor={key: img_norm[key]})\ndel key',
            lambda c: c.model.data_preprocessor.mean == [0.0] * 3,
        ),
        ('val_dataloader_2 = dict()\nmy_model = dict()', lambda c: c.val_dataloader_2 == {}),
        (
            "model = dict(head=dict(num_classes={{_base_.vtab_num_classes.svhn}}))",
            lambda c: c.model.head.num_classes == 10,
        ),
    ],
)  # fmt: skip
def test_what_has_an_effect_and_helpers_are_free(text, read, tmp_path):
    assert read(load_config(write(tmp_path / 'child.py', text, HST)))


def test_a_part_overrides_the_part_that_it_inherits(tmp_path):
    parts = CONFIGS / '_base_'
    data = write(tmp_path / 'data.py', 'num_classes = 7', parts / 'datasets/vtab-1k.py')
    trunk = write(
        tmp_path / 'trunk.py', "trunk = dict(arch='vit_giant')\nembed_dims = 1408",
        parts / 'trunks/vit-l16_mae.py',
    )  # fmt: skip
    names = ['tasks/cls', 'tuners/frozen', 'schedules/linear_10e', 'default_runtime']
    leaf = write(
        tmp_path / 'leaf.py',
        'model = dict(\n    backbone=dict(trunk=_base_.trunk, tuner=_base_.tuner),\n'
        '    head=dict(num_classes=_base_.num_classes),\n)',
        data, trunk, *(parts / f'{name}.py' for name in names),
    )  # fmt: skip
    config = load_config(leaf)
    assert config.model.head.num_classes == 7 and config.model.backbone.trunk.arch == 'vit_giant'
    load_config(data)


def test_a_part_that_the_leaf_names_and_does_not_compose_is_refused(tmp_path):
    """The leaf inherits a frozen trunk, and would train that instead."""
    arc = CONFIGS / '_base_/tuners/arc.py'
    child = write(tmp_path / 'child.py', '', FROZEN, arc)
    said = refusal(child)
    assert said.startswith(f"config {arc}: tuner = dict(type='hstpeft.ARCTuner'")
    assert said.endswith(f'{child} does not read it: set model.backbone.tuner to _base_.tuner')
    write(child, 'model = dict(backbone=dict(tuner=_base_.tuner))', FROZEN, arc)
    assert load_config(child).model.backbone.tuner.type == 'hstpeft.ARCTuner'


@pytest.mark.parametrize(
    ('key', 'value', 'near'),
    [
        ('moddel', 'dict(head=dict(num_classes=7))', 'model'),
        ('val_dataxoader', 'dict(batch_size=7)', 'val_dataloader'),
        ('default_ooks', 'dict(checkpoint=dict(interval=7))', 'default_hooks'),
        ('optim_wraper', 'dict()', 'optim_wrapper'),
        ('resum', 'True', 'resume'),
    ],
)
def test_a_misspelt_key_of_the_runner_is_refused_with_the_nearest(key, value, near, tmp_path):
    child = write(tmp_path / 'child.py', f'{key} = {value}', HST)
    assert refusal(child) == (
        f'config {child}: {key} = {value} would change nothing, since nothing reads {key}: '
        f"did you mean '{near}'?"
    )


def test_a_misspelt_name_that_the_file_reads_is_a_helper(tmp_path):
    text = 'moddel = dict(head=dict(num_classes=7))\nmodel = moddel'
    assert load_config(write(tmp_path / 'child.py', text, HST)).model.head.num_classes == 7
    assert misspelt('moddel') == 'model'
    assert misspelt('model') is misspelt('test_pipeline') is misspelt('train_cfg_rpn') is None


@pytest.mark.parametrize('leaf', [HST, FROZEN, SWIN], ids=lambda path: path.parent.name)
def test_a_written_config_loads_and_can_be_inherited(leaf, tmp_path):
    """Nothing is read in a file that holds only values."""
    load_config(leaf).dump(tmp_path / 'written.py')
    load_config(tmp_path / 'written.py')
    child = write(tmp_path / 'child.py', 'train_cfg = dict(val_interval=1)', './written.py')
    assert load_config(child).train_cfg.val_interval == 1
