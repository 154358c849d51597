"""The recipes of ARC: rates and decays by task, and what the official Swin really runs with."""

import pytest

from hstpeft.engine.config import load_config
from tests.support import tiny
from tests.support.tiers import first_fast

ARC = tiny.ROOT / 'configs' / 'arc'
SWIN = dict(
    caltech101=(3e-3, 5e-2), cifar=(5e-3, 1e-2), clevr_count=(2e-3, 5e-2), clevr_dist=(1e-3, 5e-2),
    diabetic_retinopathy=(5e-3, 5e-5), dmlab=(5e-3, 1e-2), dsprites_loc=(1e-2, 0.0),
    dsprites_ori=(5e-3, 0.0), dtd=(5e-3, 5e-2), eurosat=(3e-3, 0.0), kitti=(1e-2, 0.0),
    oxford_flowers102=(5e-3, 5e-5), oxford_iiit_pet=(1e-2, 5e-2), patch_camelyon=(5e-3, 5e-5),
    resisc45=(1e-2, 0.0), smallnorb_azi=(1e-2, 5e-3), smallnorb_ele=(1e-3, 5e-2),
    sun397=(5e-3, 5e-5), svhn=(1e-2, 5e-2),
)  # fmt: skip
FGVC = dict(
    cub=(1e-3, 5e-2), nabirds=(2e-4, 5e-2), flowers=(2.5e-3, 1e-2), cars=(5e-3, 5e-2),
    dogs=(2.5e-4, 5e-2),
)  # fmt: skip


def rate_and_decay(name: str) -> tuple[float, float]:
    wrapper = load_config(ARC / f'{name}.py').optim_wrapper
    assert wrapper.clip_grad == dict(max_norm=1.0)
    assert wrapper.paramwise_cfg.flat_decay_mult == 1.0, 'officially, vectors decay too'
    return wrapper.optimizer.lr, wrapper.optimizer.weight_decay


@pytest.mark.parametrize('task', first_fast(SWIN))
def test_swin_takes_rate_and_decay_of_the_task(monkeypatch, task):
    monkeypatch.setenv('VTAB_TASK', task)
    assert rate_and_decay('arc_swin-b_1xb32-100e_vtab-1k') == SWIN[task]
    assert rate_and_decay('arc_vit-b16_1xb32-100e_vtab-1k') == (1e-2, 0.0)


@pytest.mark.parametrize('task', FGVC)
def test_fine_grained_sets_take_the_rates_of_the_authors(monkeypatch, task):
    monkeypatch.setenv('FGVC_TASK', task)
    assert rate_and_decay('arc-att_vit-b16_1xb32-100e_fgvc') == FGVC[task]


def test_swin_has_the_official_dropout_and_drop_path():
    backbone = load_config(ARC / 'arc_swin-b_1xb32-100e_vtab-1k.py').model.backbone
    assert backbone.tuner.drop_rate == 0.5
    assert backbone.trunk.arch_options.drop_path_rate == 0.1
