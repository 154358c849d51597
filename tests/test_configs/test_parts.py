"""Parts do not lie about each other, and leaves do not repeat what a part or another leaf says."""

import difflib
import functools
import itertools
import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from hstpeft.engine.checks.config import WIDTHS
from hstpeft.engine.config import load_config
from hstpeft.engine.promises import PROMISED_HOOKS
from tests.support import tiny
from tests.support.leaves import LEAVES, NAME, shipped

BASE = tiny.ROOT / 'configs' / '_base_'
TRUNKS = {path.stem: path for path in sorted((BASE / 'trunks').glob('*.py'))}
PROJECTS = sorted((tiny.ROOT / 'projects').glob('*/hst_*.py'))
WIDTH = re.compile(r'\b(in_channels|embed_dims|out_channels|channels)=[\[(]?(\d+)')
read_part = functools.cache(Config.fromfile)
each_trunk = pytest.mark.parametrize('name', TRUNKS)


@each_trunk
def test_a_trunk_part_declares_the_widths_of_the_trunk_that_is_built(name):
    init_default_scope('mmpretrain')
    part = read_part(TRUNKS[name])
    with torch.device('meta'):
        trunk = MODELS.build(dict(part.trunk, weights=None))
    declared = {key: part[key] for key in WIDTHS if key in part}
    if len(trunk.stage_dims) == 1:
        assert declared == dict(embed_dims=trunk.embed_dims)
    else:
        assert declared == dict(stage_dims=list(trunk.stage_dims))


@each_trunk
def test_a_trunk_part_normalises_as_its_weights_expect(name):
    part = read_part(TRUNKS[name])
    weights = part.trunk.get('weights')
    if weights is None or Path(weights).is_file():
        pytest.skip('the weights are no timm tag, so nobody else says what they expect')
    tag = f'{part.trunk.arch}.{weights}'
    assert timm.models.is_model_pretrained(tag)
    pretrained = timm.models.get_pretrained_cfg(tag)
    assert part.img_norm.mean == pytest.approx([255 * value for value in pretrained.mean])
    assert part.img_norm.std == pytest.approx([255 * value for value in pretrained.std])
    assert part.img_norm.to_rgb


@pytest.mark.parametrize('name', LEAVES)
def test_a_leaf_runs_the_trunk_part_that_its_name_says(name):
    """One that inherits another names architecture and weights again, so they could differ."""
    trunk = shipped(name).model.backbone.trunk
    named = NAME.fullmatch(name)['trunk']
    parts = [
        read_part(path).trunk
        for stem, path in TRUNKS.items()
        if stem.replace('_', '-').startswith(named)
    ]
    assert parts, f'no trunk part is called {named}'
    # HVTs have no published weights, so a leaf may bring its own.
    assert any(
        trunk.arch == part.arch and part.get('weights') in (None, trunk.get('weights'))
        for part in parts
    )


@pytest.mark.parametrize('path', [*LEAVES.values(), *PROJECTS], ids=lambda path: path.stem)
def test_a_leaf_retypes_no_width(path):
    literal = [match[0] for match in WIDTH.finditer(path.read_text()) if int(match[2]) >= 16]
    assert not literal, 'widths come with a part: _base_.embed_dims, _base_.tuner.side_dims ...'


def inherited_leaves(path: Path) -> set[Path]:
    """Leaves in the chain of a leaf."""
    found = set()
    for base in re.findall(r"'(\.{1,2}/\S+\.py)'", path.read_text()):
        if '_base_' not in base:
            leaf = (path.parent / base).resolve()
            found |= {leaf, *inherited_leaves(leaf)}
    return found


def changed_lines(first: Path, second: Path) -> tuple[int, set[str]]:
    """Count the lines in which two leaves differ, and name the kinds of parts among them."""
    lines = (path.read_text().splitlines() for path in (first, second))
    changed = [line for line in difflib.ndiff(*lines) if line[:2] in ('- ', '+ ')]
    count = max(sum(line.startswith(sign) for line in changed) for sign in '-+')
    return count, set(re.findall(r'_base_/(\w+)/', ' '.join(changed)))


def widths(path: Path) -> list:
    config = load_config(path)
    return [config.get(key) for key in WIDTHS]


def test_a_leaf_that_differs_from_another_in_two_lines_inherits_it():
    """But for another data set, schedule or task, whose keys mmengine lets no two bases share, and
    for a trunk of another width, which comes with the trunk's part."""
    written_out = [path for path in LEAVES.values() if not inherited_leaves(path)]
    assert len(written_out) < len(LEAVES) - 15
    for first, second in itertools.combinations(written_out, 2):
        count, parts = changed_lines(first, second)
        if count > 2 or parts & {'datasets', 'schedules', 'tasks'}:
            continue
        assert widths(first) != widths(second), f'{first.name} and {second.name}'


@pytest.mark.parametrize('name', LEAVES)
def test_hooks_and_log_count_as_the_schedule_does(name):
    config = shipped(name)
    by_epoch = config.train_cfg.by_epoch
    hooks = config.default_hooks
    assert config.log_processor.by_epoch == by_epoch
    assert hooks.checkpoint.get('by_epoch', True) == by_epoch
    assert hooks.logger.get('log_metric_by_epoch', True) == by_epoch
    length = config.train_cfg['max_epochs' if by_epoch else 'max_iters']
    assert 0 < hooks.checkpoint.interval <= length


def test_the_runtime_lists_the_hooks_that_every_run_of_ours_has():
    listed = Config.fromfile(BASE / 'default_runtime.py').custom_hooks
    assert [hook.type for hook in listed] == [*PROMISED_HOOKS]


def test_there_is_one_runtime_a_host():
    runtimes = {path.stem for path in BASE.glob('default_runtime*.py')}
    assert runtimes == {'default_runtime', 'default_runtime_mmseg', 'default_runtime_mmdet'}
    for name in runtimes:
        keys = Config.fromfile(BASE / f'{name}.py').keys()
        assert not {'default_hooks', 'log_processor'} & set(keys), "they are the schedule's"
