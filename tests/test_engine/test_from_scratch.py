"""A tiny HVT trained from scratch on rendered images, with the parts of its recipe."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hstpeft.apis import init_model
from hstpeft.delta.fingerprint import RANDOM
from hstpeft.delta.identity import decode_identity
from tests.support import tiny
from tools.test import main as run_test

# Random wherever the recipe is: repeated augmentation, mixup or CutMix, drop path, initial values.
LEAF = """
_base_ = [
    '{root}/configs/_base_/tasks/cls-mixup.py',
    '{root}/configs/_base_/trunks/hvt-s4.py',
    '{root}/configs/_base_/tuners/full.py',
    '{root}/configs/_base_/datasets/rendered.py',
    '{root}/configs/_base_/schedules/hvt_300e.py',
    '{root}/configs/_base_/default_runtime.py',
]
options = dict(
    img_size=32, patch_size=4, embed_dim=24, depth=5, num_heads=2, drop_path_rate=_base_.drop_path_rate
)
model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, **_base_.img_norm),
    backbone=dict(trunk=dict(arch_options=options, **_base_.trunk), tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes, in_channels=24),
)
train_dataloader = dict(
    batch_size=12,
    num_workers=0,
    dataset=dict(num_samples=48),
    sampler=dict(_delete_=True, type='mmpretrain.RepeatAugSampler', shuffle=True, num_repeats=3),
)
val_dataloader = dict(batch_size=24, num_workers=0, dataset=dict(num_samples=24))
test_dataloader = dict(batch_size=24, num_workers=0, dataset=dict(num_samples=24, seed=2))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=-1))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=3)]
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
"""
EPOCHS = 8


@pytest.fixture(scope='module')
def leaf(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('leaf') / 'hvt_tiny.py'
    path.write_text(LEAF.format(root=tiny.ROOT, epochs=EPOCHS))
    return path


@pytest.fixture(autouse=True, scope='module')
def _small_images() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RENDERED_SIZE', '32')
        yield


@pytest.fixture(scope='module')
def unbroken(leaf, tmp_path_factory) -> Path:
    return tiny.train(leaf, tmp_path_factory.mktemp('unbroken'))


def history(work_dir: Path, key: str) -> list[float]:
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [entry[key] for entry in map(json.loads, lines) if key in entry]


def weights(work_dir: Path, epoch: int = EPOCHS) -> dict[str, torch.Tensor]:
    return dict(tiny.load(work_dir / f'epoch_{epoch}.pth')['state_dict'])


def test_it_learns(unbroken):
    losses = history(unbroken, 'loss')
    assert len(losses) == 4 * EPOCHS
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.05


def test_everything_is_trained_and_saved(unbroken):
    first, last = weights(unbroken, 1), weights(unbroken)
    parameters = {key for key in last if key != 'backbone._extra_state'}
    assert {key for key in parameters if not first[key].equal(last[key])} == parameters
    assert {'backbone.trunk.vit.pos_embed', 'backbone.trunk.vit.blocks.3.pos_embed'} <= parameters
    identity = decode_identity(last['backbone._extra_state'])
    assert (identity.trunk, identity.words) == (RANDOM, 'FullTuner')
    delta = tiny.load(unbroken / 'delta.pth')
    assert tiny.same(dict(delta['state_dict']), last)


def test_a_resumed_run_is_bit_equal(leaf, unbroken, tmp_path):
    for epoch in (3, 4):
        shutil.copy(unbroken / f'epoch_{epoch}.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_4.pth'))
    tiny.train(leaf, tmp_path, '--resume')
    assert tiny.same(weights(unbroken), weights(tmp_path))
    expected, got = (tiny.load(d / f'epoch_{EPOCHS}.pth') for d in (unbroken, tmp_path))
    assert tiny.same(expected['optimizer'], got['optimizer'])


def test_test_py_reaches_what_the_training_reported(leaf, unbroken, tmp_path):
    (reported,) = history(unbroken, 'accuracy/top1')
    assert run_test(tiny.arguments(leaf, tmp_path, unbroken / 'delta.pth')) == {
        'accuracy/top1': reported
    }


def test_the_delta_alone_makes_the_model(leaf, unbroken):
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    fresh = init_model(leaf, None, 'cpu')
    torch.manual_seed(6)
    loaded = init_model(leaf, unbroken / 'delta.pth', 'cpu')
    with torch.no_grad():
        expected = loaded(image, mode='tensor')
        assert not fresh(image, mode='tensor').allclose(expected, atol=1e-3)
        fresh.load_state_dict(weights(unbroken))
        assert fresh(image, mode='tensor').equal(expected)
