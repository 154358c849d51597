"""SA2VP's tables of tasks reach model, optimiser and loader."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from torch import nn

from hstpeft.engine.config import load_config
from tests.support import tiny
from tests.support.tiers import first_fast

CONFIGS = tiny.ROOT / 'configs' / 'sa2vp'
PLAIN = CONFIGS / 'sa2vp_vit-b16_1xb64-100e_vtab-1k.py'
ACCELERATED = CONFIGS / 'sa2vp-acc_vit-b16_1xb64-100e_vtab-1k.py'
SWIN = CONFIGS / 'sa2vp_swin-b_1xb64-100e_vtab-1k.py'
FGVC = CONFIGS / 'sa2vp_vit-b16_1xb64-100e_fgvc.py'
# Task: inner size, mixing weight, rate, batch.
TASKS = dict(
    caltech101=(8, 0.1, 1e-3, 64), cifar=(8, 0.1, 1e-3, 64), clevr_count=(32, 1.5, 5e-4, 40),
    clevr_dist=(32, 1.5, 1e-3, 40), diabetic_retinopathy=(16, 1.5, 1e-3, 40),
    dmlab=(32, 1.5, 1e-3, 40), dsprites_loc=(32, 1.5, 1e-3, 40), dsprites_ori=(16, 0.1, 1e-3, 40),
    dtd=(8, 0.1, 1e-3, 64), eurosat=(16, 1.5, 1e-3, 40), kitti=(32, 1.5, 1e-3, 40),
    oxford_flowers102=(8, 0.1, 1e-3, 64), oxford_iiit_pet=(8, 0.1, 5e-4, 64),
    patch_camelyon=(16, 1.5, 1e-3, 40), resisc45=(16, 0.5, 1e-3, 40),
    smallnorb_azi=(32, 1.5, 1e-3, 40), smallnorb_ele=(32, 0.5, 1e-3, 40),
    sun397=(8, 0.1, 1e-3, 64), svhn=(16, 0.5, 1e-3, 64),
)  # fmt: skip
FINE_GRAINED = dict(
    cub=(16, 0.1), nabirds=(32, 0.1), flowers=(8, 0.1), dogs=(32, 0.1), cars=(64, 1.5)
)


def recipe(path) -> tuple:
    """Read off what a config would train with."""
    config = load_config(path)
    tuner = config.model.backbone.tuner
    batch = config.train_dataloader.batch_size
    assert batch == config.auto_scale_lr.base_batch_size
    return tuner.inner_dims, tuner.mixing_weight, config.optim_wrapper.optimizer.lr, batch


@pytest.mark.parametrize('task', first_fast(TASKS))
def test_every_task_of_vtab_has_its_row(monkeypatch, task):
    monkeypatch.setenv('VTAB_TASK', task)
    assert recipe(PLAIN) == recipe(ACCELERATED) == TASKS[task]
    assert recipe(SWIN) == (8, 0.5, *TASKS[task][2:])


@pytest.mark.parametrize('task', FINE_GRAINED)
def test_every_fine_grained_set_has_its_row_whatever_task_of_vtab_is_set(monkeypatch, task):
    monkeypatch.setenv('VTAB_TASK', 'clevr_count')
    monkeypatch.setenv('FGVC_TASK', task)
    assert recipe(FGVC) == (*FINE_GRAINED[task], 1e-3, 64)


@pytest.mark.parametrize('path', [PLAIN, ACCELERATED, FGVC], ids=lambda path: path.stem)
def test_dropout_is_where_the_recipe_has_it(path):
    config = load_config(path).model.backbone
    config.trunk.update(weights=None)
    config.trunk.arch_options.update(depth=3, embed_dim=24, num_heads=2, img_size=32)
    backbone = MODELS.build(config)
    rates = {
        name: module.p for name, module in backbone.named_modules() if type(module) is nn.Dropout
    }
    dropping = {name for name, rate in rates.items() if rate}
    assert {rates[name] for name in dropping} == {0.1}
    assert dropping == {
        'trunk.vit.pos_drop',
        *(f'trunk.vit.blocks.{i}.mlp.drop{number}' for i in range(3) for number in (1, 2)),
        *(f'tuner.cross.{i}.drop' for i in range(3)),
    }
    assert backbone.tuner.accelerated == (path == ACCELERATED)


def test_vectors_do_not_decay_and_prompts_do():
    config = load_config(CONFIGS / 'sa2vp_vit-b16_1xb64-100e_vtab-1k.py')
    model = config.model
    model.backbone.trunk.update(weights=None)
    model.backbone.trunk.arch_options.update(depth=3, embed_dim=24, num_heads=2, img_size=32)
    model.head.in_channels = 24
    built = MODELS.build(model)
    names = {id(p): name for name, p in built.named_parameters()}
    groups = build_optim_wrapper(built, config.optim_wrapper).optimizer.param_groups
    decay = {names[id(p)]: group['weight_decay'] for group in groups for p in group['params']}
    assert set(decay.values()) == {0.0, 1e-4}
    for name, value in decay.items():
        assert (value == 0) == (built.get_parameter(name).dim() == 1), name
    assert decay['backbone.tuner.prompt'] == decay['backbone.tuner.deep_scales'] == 1e-4
