"""The leaves that train an HVT from scratch do what DeiT's recipe says."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import DATA_SAMPLERS, MODELS, PARAM_SCHEDULERS
from timm.scheduler import CosineLRScheduler
from torch import nn

from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from hstpeft.models.trunks.hvt import HVT_SIZES
from tests.support import tiny

LEAVES = {path.stem: path for path in sorted((tiny.ROOT / 'configs' / 'hvt').glob('*.py'))}
CIFAR = 'hvt-s1_8xb128-300e_cifar100'
ARC = tiny.ROOT / 'configs' / 'arc' / 'arc_hvt-s1_1xb32-100e_vtab-1k.py'
EPOCHS, PEAK = 300, 1e-3
each_leaf = pytest.mark.parametrize('name', LEAVES)


def test_there_is_a_leaf_for_every_published_model():
    archs = [load_config(LEAVES[name]).model.backbone.trunk.arch for name in LEAVES]
    assert Counter(archs) == Counter([*HVT_SIZES, 'hvt_s_1'])
    assert CIFAR in LEAVES


@each_leaf
def test_head_and_classes_fit_the_model(name):
    model = load_config(LEAVES[name]).model
    assert model.head.in_channels == HVT_SIZES[model.backbone.trunk.arch].embed_dim
    classes = 100 if name == CIFAR else 1000
    assert model.head.num_classes == model.data_preprocessor.num_classes == classes


def rates(config: Path) -> list[float]:
    """Return the learning rate of every epoch."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=PEAK)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer))
        for cfg in load_config(config).param_scheduler
    ]
    found = []
    for _ in range(EPOCHS):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def timm_rates() -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=PEAK)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=EPOCHS, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    found = []
    for epoch in range(EPOCHS):
        found.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    return found


def test_the_rates_are_those_of_the_official_code():
    """The README's figure: the same warm-up, then at most 1.6 % of the peak apart."""
    own, official = rates(LEAVES['hvt-s1_8xb128-300e_in1k']), timm_rates()
    assert own[:5] == pytest.approx(official[:5], rel=1e-6)
    assert max(abs(a - b) for a, b in zip(own, official, strict=True)) < 0.016 * PEAK
    assert own[-1] == pytest.approx(official[-1], rel=1e-3)


@each_leaf
def test_optimiser(name):
    config = load_config(LEAVES[name])
    assert config.optim_wrapper.get('clip_grad') is None
    trunk = config.model.backbone.trunk
    trunk.arch_options |= dict(img_size=32, patch_size=4, depth=4)
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    images = config.auto_scale_lr.base_batch_size
    assert optimizer.defaults['lr'] == pytest.approx(5e-4 * images / 512)
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    for name, parameter in model.named_parameters():
        spared = parameter.dim() < 2 or name.endswith('pos_embed')
        assert decay.pop(id(parameter)) == (0 if spared else 0.025), name
    assert not decay


@each_leaf
def test_drop_path_grows_to_a_tenth(name):
    config = load_config(LEAVES[name])
    with torch.device('meta'):
        blocks = MODELS.build(config.model).backbone.trunk.vit.blocks
    found = [getattr(block.drop_path2, 'drop_prob', 0.0) for block in blocks]
    assert found == pytest.approx([0.1 * i / 11 for i in range(12)])


@each_leaf
def test_mixing_and_smoothing(name):
    model = load_config(LEAVES[name]).model
    augments = [(augment.type, augment.alpha) for augment in model.train_cfg.augments]
    assert augments == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert model.head.loss.label_smooth_val == 0.1


@each_leaf
def test_an_epoch_shows_a_third_of_the_images_three_times(name):
    config = load_config(LEAVES[name]).train_dataloader.sampler
    sampler = DATA_SAMPLERS.build(dict(config, dataset=range(300), seed=0))
    shown = Counter(sampler)
    assert len(sampler) == 300
    assert set(shown.values()) == {3}
    sampler.set_epoch(1)
    assert Counter(sampler).keys() != shown.keys()


def test_cifar_is_rgb_already():
    """mmpretrain's data set gives RGB; swapping would give the trunk blue for red."""
    for name, path in LEAVES.items():
        assert load_config(path).model.data_preprocessor.to_rgb == (name != CIFAR)


def test_arc_on_hvt_names_the_weights_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv('HVT_WEIGHTS', str(tmp_path / 'trunk.safetensors'))
    with pytest.raises(UserError, match=r'trunk.weights .*trunk.safetensors does not exist'):
        MODELS.build(load_config(ARC).model)
