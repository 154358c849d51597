"""HMA through the tools: training, resume, prediction and the picture of its attention."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from hstpeft.apis import init_model
from tests.support import tiny
from tests.support.hma_parts import batch, make_head
from tools.analysis.hma_attention import main as draw_attention
from tools.analysis.hma_looks import look, sum_by_class
from tools.test import main as run_test

LEAF = """
_base_ = '{base}'
model = dict(
    type='hstpeft.HMAClassifier',
    backbone=dict(
        tuner=dict(_delete_=True, type='hstpeft.MemoryTokensTuner', num_memory_tokens=2)
    ),
    encoder_momentum=0.9,
    head=dict(
        _delete_=True, type='hstpeft.HMAClsHead', num_classes=3, in_channels=32, label_dims=8,
        local_memory=dict(size=14), global_memory_per_class=2, global_memory_init='normal',
        attention=dict(null_kv=True),
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
    ),
)
"""
# As the leaf files of HMA count, in steps.
BY_STEPS = """
train_dataloader = dict(sampler=dict(_delete_=True, type='InfiniteSampler'))
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=5, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=3, begin=2, end=5, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5))
log_processor = dict(by_epoch=False)
"""


class HMARun(NamedTuple):
    """A finished training."""

    leaf: Path
    work_dir: Path

    @property
    def delta(self) -> Path:
        return self.work_dir / 'delta.pth'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> HMARun:
    task = tiny.make_task(tmp_path_factory.mktemp('hma'))
    leaf = task.folder / 'hma_tiny.py'
    leaf.write_text(LEAF.format(base=task.linear))
    return HMARun(leaf, tiny.train(leaf, task.folder / 'work'))


def test_labels_reach_the_queue_and_the_delta(run):
    state = tiny.load(run.delta)['state_dict']
    # Three epochs of three steps of eight samples: 72 rows through a queue of 14.
    assert state['head.queue.pointer'].tolist() == [72 % 14]
    assert set(state['head.queue.labels'].tolist()) == {0, 1, 2}
    embeddings = state['head.queue.rows'][:, 32:]
    for label in range(3):
        own = embeddings[state['head.queue.labels'] == label]
        assert (own - own[0]).abs().max() < 0.1, 'rows of a class carry its embedding'
    assert not [key for key in state if 'blocks' in key]
    assert any(key.startswith('momentum_backbone.tuner.') for key in state)


def test_a_resumed_training_ends_with_the_same_delta(run, tmp_path):
    first = run.work_dir / 'epoch_1.pth'
    tiny.train(run.leaf, tmp_path, '--resume', first)
    expected, got = (tiny.load(path)['state_dict'] for path in (run.delta, tmp_path / 'delta.pth'))
    assert tiny.same(dict(got), dict(expected))
    assert not tiny.same(dict(tiny.load(first)['state_dict']), dict(expected))


def test_testing_gives_the_same_whatever_the_batch_size(run, tmp_path):
    metrics = [
        run_test(
            tiny.arguments(
                run.leaf, tmp_path, run.delta, options=[f'test_dataloader.batch_size={size}']
            )
        )
        for size in (1, 4)
    ]
    assert metrics[0] == metrics[1]


def test_training_may_be_counted_in_steps(run, tmp_path):
    leaf = run.leaf.parent / 'hma_steps.py'
    leaf.write_text(run.leaf.read_text() + BY_STEPS)
    work = tiny.train(leaf, tmp_path)
    assert (work / 'iter_5.pth').is_file()
    assert tiny.load(work / 'delta.pth')['state_dict']['head.queue.pointer'].tolist() == [40 % 14]


def test_what_an_image_looked_at_sums_to_one():
    head = make_head(attention=dict(null_kv=True)).eval()
    feats = (batch(6)[0],)
    for alone in (False, True):
        looks = look(head, feats, show=2, alone=alone)
        assert looks.itself_local + looks.local.sum() + looks.nothing[0] == pytest.approx(1)
        total = looks.neighbours.sum() + looks.memories.sum() + looks.nothing[1]
        assert total == pytest.approx(1)
        assert looks.local.shape == (12,) and looks.memories.shape == (10,)
        assert (looks.neighbours > 0).tolist() == [not alone or i == 2 for i in range(6)]
    assert looks.memory_classes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert looks.predicted == int(head(feats)[2].argmax())


def test_the_rows_that_match_get_the_weight_of_their_class():
    head = make_head(
        batch_attention=False, global_memory_per_class=0, attention=dict(softmax_temp=200.0)
    ).eval()
    samples = batch(12)[1]
    x = batch(12)[0]
    head.remember((x,), samples)
    with torch.no_grad():  # scores are now similarities of rows
        head.local_read.query.weight.copy_(torch.eye(32))
        head.local_read.key.weight.copy_(torch.eye(32))
        head.label_embeddings.weight[-1] = head.label_embeddings(head.queue.labels[3])
    looks = look(head, (x,), show=3)
    assert int(looks.local.argmax()) == 3
    sums = sum_by_class(looks.local, looks.local_classes, 5)
    assert int(sums.argmax()) == int(head.queue.labels[3])
    assert looks.neighbours.sum() == 0 and len(looks.memories) == 0


def test_rows_of_unknown_class_are_in_no_sum():
    weights = torch.tensor([0.2, 0.3, 0.5])
    sums = sum_by_class(weights, torch.tensor([1, -1, 1]), 3)
    torch.testing.assert_close(sums, torch.tensor([0.0, 0.7, 0.0]))


@pytest.mark.parametrize(
    'more',
    [
        [],
        pytest.param(['--alone'], marks=pytest.mark.slow),
        pytest.param(['--show', '2', '--top', '3'], marks=pytest.mark.slow),
    ],
    ids=' '.join,
)
def test_the_picture_is_drawn(run, tmp_path, more, capsys):
    out = tmp_path / 'new' / 'looks.png'
    draw_attention([str(run.leaf), str(run.delta), str(out), *more, '--images', '3', '1', '8'])
    picture = np.array(Image.open(out).convert('RGB'))
    assert picture.shape[0] > 400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    lines = (run.leaf.parent / 'data' / 'test.txt').read_text().splitlines()
    labels = [int(line.split()[1]) for line in lines]
    shown = labels[8 if '--show' in more else 3]
    assert f'{tiny.CLASSES[shown]} read as ' in capsys.readouterr().out


@pytest.mark.parametrize(
    'more, words',
    [
        (['--images', '9'], '--images 9 is not between 0 and 8'),
        (['--images', '1', '2', '--show', '2'], '--show 2 is not between 0 and 1'),
    ],
)
def test_wrong_numbers_are_named(run, tmp_path, more, words, capsys):
    with pytest.raises(SystemExit, match='1'):
        draw_attention([str(run.leaf), str(run.delta), str(tmp_path / 'x.png'), *more])
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'x.png').exists()


def test_a_head_without_memories_is_refused(run, tmp_path, capsys):
    linear = run.leaf.parent / 'frozen_tiny.py'
    model = init_model(linear, None, 'cpu')
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'd.pth')
    with pytest.raises(SystemExit, match='1'):
        draw_attention([str(linear), str(tmp_path / 'd.pth'), str(tmp_path / 'x.png')])
    assert 'the head is a LinearClsHead, not an hstpeft.HMAClsHead' in capsys.readouterr().err
