"""Every shipped leaf loads, says in its name what it does, and builds; no data, no download."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import Registry
from mmpretrain.registry import HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from torch import nn

from hstpeft import registry
from tests.support.leaves import LEAVES, NAME, shipped, shrunk

MAX_LINES = 30
# Method in a leaf's name -> its folder and its tuner; a trunk from scratch has no method.
METHODS = {
    None: ('hvt', 'FullTuner'),
    'arc': ('arc', 'ARCTuner'),
    'arc-att': ('arc', 'ARCTuner'),
    'frozen': ('frozen', 'FrozenTuner'),
    'full': ('full', 'FullTuner'),
    'hma': ('hma', 'FrozenTuner'),
    'hma-full': ('hma', 'FullTuner'),
    'hst': ('hst', 'HSTTuner'),
    'linear': ('linear', 'FrozenTuner'),
    'memory-tokens': ('memory_tokens', 'MemoryTokensTuner'),
    'sa2vp': ('sa2vp', 'SA2VPTuner'),
    'sa2vp-acc': ('sa2vp', 'SA2VPTuner'),
}
OWN = {
    name
    for child in vars(registry).values()
    if isinstance(child, Registry) and child.scope == 'hstpeft'
    for name in (child.import_from_location() or child.module_dict)
}

each_leaf = pytest.mark.parametrize('name', LEAVES)
# Those of the dense hosts are built and started in test_dense_leaves.py.
CLASSIFIERS = [name for name in LEAVES if not NAME.fullmatch(name)['task']]
each_classifier = pytest.mark.parametrize('name', CLASSIFIERS)
# The last leaf of each method and family of trunks, which the fast tier builds.
EXAMPLES = {
    (NAME.fullmatch(name)['method'], NAME.fullmatch(name)['trunk'].split('-')[0]): name
    for name in CLASSIFIERS
}


def walk(node: Any, where: str = '') -> Iterator[tuple[str, str]]:
    """Yield every ``type`` of a config and where it stands."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield where, node['type']
        for key, value in node.items():
            yield from walk(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f'{where}.{index}')


def test_there_are_leaves_and_types_of_ours():
    assert 'hst_vit-ti16_1xb32-12e_vtab-1k' in LEAVES
    assert {'TunedBackbone', 'HSTTuner', 'VTAB1k', 'seed_worker', 'DeviceAwareDDP'} <= OWN


@each_leaf
def test_name_says_what_the_config_does(name):
    parts = NAME.fullmatch(name)
    assert parts, f'{name} is not {{method}}_{{trunk}}_{{gpus}}xb{{batch}}-{{length}}e_{{dataset}}'
    config = shipped(name)
    assert int(parts['batch']) == config.train_dataloader.batch_size
    length, factor = {'e': ('max_epochs', 1), 'i': ('max_iters', 1), 'k': ('max_iters', 1000)}[
        parts['unit']
    ]
    assert factor * int(parts['length']) == config.train_cfg[length]
    assert int(parts['gpus']) * int(parts['batch']) == config.auto_scale_lr.base_batch_size
    folder, tuner = METHODS[parts['method']]
    assert LEAVES[name].parent.name in (folder, 'quickstart')
    assert config.model.backbone.tuner.type == f'hstpeft.{tuner}'


@each_leaf
def test_leaf_is_short(name):
    assert len(LEAVES[name].read_text().splitlines()) <= MAX_LINES


@each_leaf
def test_our_types_carry_our_prefix(name):
    types = dict(walk(shipped(name).to_dict()))
    # Of this name there is mmcv's too, which is meant; ours takes its place in a loader.
    bare = {w: kind for w, kind in types.items() if kind in OWN - {'LoadImageFromFile'}}
    assert not bare
    foreign = {kind for kind in types.values() if kind.startswith('hstpeft.')}
    assert foreign <= {f'hstpeft.{kind}' for kind in OWN}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in EXAMPLES.values()))
        for name in CLASSIFIERS
    ],
)
def test_model_builds_and_gives_a_score_for_every_class(name):
    config = shrunk(LEAVES[name])
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        scores = model(torch.zeros(2, 3, 32, 32), mode='tensor')
    assert scores.shape == (2, config.num_classes)


def build_scheduler(cfg: dict, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Build one, as the runner does."""
    kind = PARAM_SCHEDULERS.get(cfg.pop('type'))
    if cfg.pop('convert_to_iter_based', False):
        return kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=steps, **cfg)
    return kind(optimizer=optimizer, **cfg)


@functools.cache
def learning_rates(schedule: str) -> list[float]:
    """Go through a schedule (optimiser, schedulers and loop as JSON) with the real classes.

    A long one of iterations is shortened first, all its lengths by the same factor.
    """
    optim_wrapper, param_scheduler, train_cfg = json.loads(schedule)
    optimizer = build_optim_wrapper(nn.Sequential(nn.Linear(2, 2)), optim_wrapper).optimizer
    # Enough steps in an epoch for a warm-up that is counted in iterations.
    in_steps = any(not cfg.get('by_epoch', True) for cfg in param_scheduler)
    steps = 100 if in_steps else 4
    total = train_cfg.get('max_iters') or steps * train_cfg['max_epochs']
    factor = 1 if total <= 1000 or 'max_epochs' in train_cfg else total // 1000
    for cfg in param_scheduler:
        lengths = ('begin', 'end', 'T_max') if not cfg.get('by_epoch', True) else ()
        # Of an epoch of a large set the warm-up is a part; here it may last for one epoch.
        shorter = 5 if 'max_epochs' in train_cfg else factor
        cfg.update({key: cfg[key] // shorter for key in lengths if key in cfg})
    schedulers = [build_scheduler(dict(cfg), optimizer, steps) for cfg in param_scheduler]
    rates = []
    for step in range(1, total // factor + 1):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % steps == 0:
                scheduler.step()
    return rates


@each_leaf
def test_optimiser_and_schedule_reach_the_peak_and_end_low(name):
    config = shipped(name)
    schedule = [config.optim_wrapper, config.param_scheduler, config.train_cfg]
    rates = learning_rates(json.dumps(schedule))
    peak = config.optim_wrapper.optimizer.lr
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] < 0.02 * peak
    assert rates.index(max(rates)) <= 0.2 * len(rates), 'the peak comes early'


# Official recipes that take ImageNet's mean and deviation whatever the weights expect.
IMAGENET_NORM = ('arc_vit-b16_1xb32-100e_vtab-1k', 'arc-att_vit-b16_1xb32-100e_fgvc')


@each_leaf
def test_normalisation_is_that_of_the_weights(name):
    model = shipped(name).model
    trunk = model.backbone.trunk
    if name in IMAGENET_NORM:
        assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
        assert model.data_preprocessor.std == [58.395, 57.12, 57.375]
        return
    tag = f'{trunk.arch}.{trunk.get("weights")}'
    if not timm.models.is_model_pretrained(tag):
        pytest.skip('the weights are no timm tag, so nobody else says what they expect')
    pretrained = timm.models.get_pretrained_cfg(tag)
    for own, theirs in (('mean', pretrained.mean), ('std', pretrained.std)):
        assert model.data_preprocessor[own] == pytest.approx([255 * value for value in theirs])


@each_classifier
def test_pipelines_hooks_and_metrics_build(name):
    config = shipped(name)
    rng = np.random.default_rng(0)
    for loader in (config.train_dataloader, config.val_dataloader):
        image = rng.integers(0, 255, (300, 260, 3), dtype=np.uint8)
        results = dict(img=image, img_shape=(300, 260), ori_shape=(300, 260), gt_label=1)
        for transform in loader.dataset.pipeline:
            if transform['type'] != 'LoadImageFromFile':
                results = TRANSFORMS.build(transform)(results)
        assert results['inputs'].shape[0] == 3
        assert results['data_samples'].gt_label.tolist() == [1]
    assert all(HOOKS.build(hook) for hook in config.custom_hooks)
    assert METRICS.build(config.val_evaluator)
    assert config.randomness.seed is not None, 'without a seed a resume has another data order'
