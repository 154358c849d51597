"""HMA's head among mmpretrain's: what it remembers, what a prediction depends on, what it refuses."""

import json

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from hstpeft.errors import UserError
from hstpeft.models.heads import HMAClsHead
from tests.support.hma_parts import (
    CLASSES,
    DIMS,
    LABEL_DIMS,
    batch,
    labels_of,
    make_head,
    samples_of,
)
from tests.support.models import REFERENCE, changed, snapshot


def test_training_writes_features_and_label_embeddings_behind_each_other():
    head = make_head().train()
    before = head.queue.rows.clone()
    (x, first), (y, second) = batch(4), batch(3, seed=1)
    head.loss((x,), first)
    head.loss((y,), second)
    labels = torch.cat([labels_of(first), labels_of(second)])
    expected = torch.cat([torch.cat([x, y]), head.label_embeddings(labels)], dim=1)
    assert head.queue.rows[:7].equal(expected)
    assert head.queue.rows[7:].equal(before[7:])
    assert head.queue.pointer.tolist() == [7]
    assert head.queue.labels.tolist() == labels.tolist() + [-1] * 5
    assert not head.queue.rows.requires_grad


def test_the_queue_is_read_before_it_is_written():
    head, other = make_head(), make_head()
    x, samples = batch(4)
    loss = head.train().loss((x,), samples)['loss']
    other.eval()
    other.batch_attention_at_test = True
    assert loss.equal(other.loss((x,), samples)['loss'])
    assert changed(head, snapshot(other)) == {'queue.rows', 'queue.pointer', 'queue.labels'}


def test_a_batch_that_does_not_divide_the_queue_wraps_around():
    head = make_head().train()
    for seed in range(3):
        x, samples = batch(5, seed)
        head.loss((x,), samples)
    # 15 rows written into 12: the last three at the front.
    assert head.queue.pointer.tolist() == [3]
    assert head.queue.rows[:3, :DIMS].equal(x[2:])
    assert head.queue.rows[10:, :DIMS].equal(x[:2])
    assert head.queue.labels[:3].equal(labels_of(samples)[2:])
    assert (head.queue.labels >= 0).all()


@pytest.mark.parametrize('size, start', [(12, 5), (13, 5), (29, 0), (24, 11)])
def test_a_batch_larger_than_the_queue_leaves_its_last_rows_in_their_places(size, start):
    at_once, one_by_one = make_head().train(), make_head().train()
    (x, samples), (y, more) = batch(size), batch(max(start, 1), seed=9)
    for head in (at_once, one_by_one):
        if start:
            head.loss((y,), more)
    at_once.loss((x,), samples)
    for row, sample in zip(x, samples, strict=True):
        one_by_one.loss((row[None],), [sample])
    assert not changed(at_once.queue, snapshot(one_by_one.queue))


@pytest.mark.parametrize('size, moved', [(4, True), (12, True), (5, False), (13, False)])
def test_divisible_is_the_official_rule(size, moved):
    head = make_head(local_memory=dict(update='divisible')).train()
    before = snapshot(head)
    head.loss((batch(size)[0],), batch(size)[1])
    assert bool(changed(head, before)) == moved


def test_never_is_the_official_pipeline():
    head = make_head(local_memory=dict(update='never')).train()
    before = snapshot(head)
    x, samples = batch(4)
    head.loss((x,), samples)
    head.remember((x,), samples)
    assert not changed(head, before)
    soft = [DataSample().set_gt_score(torch.full((CLASSES,), 0.2)) for _ in range(4)]
    assert head.loss((x,), soft)['loss'] > 0, 'what is not remembered may be soft'


def test_the_queue_never_moves_in_evaluation():
    head = make_head().eval()
    before = snapshot(head)
    x, samples = batch(4)
    head.loss((x,), samples)
    head.predict((x,), samples)
    head((x,))
    assert not changed(head, before)


def test_the_logits_depend_on_the_labels_that_were_remembered():
    heads = [make_head().train() for _ in range(2)]
    x, samples = batch(4)
    heads[0].loss((x,), samples)
    heads[1].loss((x,), samples_of([(label + 1) % CLASSES for label in labels_of(samples)]))
    a, b = (head.eval()((x,)) for head in heads)
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize('options', [{}, dict(null_kv=True), dict(topk=2)])
def test_a_prediction_does_not_depend_on_the_other_images(options):
    head = make_head(attention=options).double().eval()
    x, _ = batch(6)
    x = x.double()
    together = head((x,))
    alone = torch.cat([head((row[None],)) for row in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_the_official_coupling_can_be_chosen_and_is_that_of_training():
    head = make_head(batch_attention_at_test=True).double()
    x = batch(6)[0].double()
    together = head.eval()((x,))
    alone = torch.cat([head((row[None],)) for row in x])
    assert (together - alone).abs().max() > 1e-4
    assert together.equal(head.train()((x,)))
    # One image alone reads itself and the global memories, coupled or not.
    uncoupled = make_head().double().eval()
    torch.testing.assert_close(alone, uncoupled((x,)), rtol=0, atol=1e-12)


def test_predict_and_loss_are_those_of_the_host():
    config = dict(type='hstpeft.HMAClsHead', num_classes=CLASSES, in_channels=DIMS, cal_acc=True)
    head = MODELS.build({**config, 'topk': (1, 3), 'label_dims': LABEL_DIMS}).eval()
    x, samples = batch(4)
    losses = head.loss((torch.zeros(1), x), samples)
    assert losses.keys() == {'loss', 'accuracy_top-1', 'accuracy_top-3'}
    logits = head((x,))
    expected = torch.nn.functional.cross_entropy(logits, labels_of(samples))
    torch.testing.assert_close(losses['loss'], expected)
    predicted = head.predict((x,), samples)
    assert [s.pred_label.item() for s in predicted] == logits.argmax(1).tolist()
    assert predicted[0] is samples[0]


def test_one_class_has_one_logit_and_two_labels():
    torch.manual_seed(0)
    loss = dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True)
    head = HMAClsHead(1, DIMS, local_memory=dict(size=6), loss=loss).train()
    samples = [DataSample().set_gt_label(1), DataSample().set_gt_label(0)]
    x, _ = batch(2)
    assert head((x,)).shape == (2, 1)
    assert len(head.label_embeddings.weight) == 3
    assert len(head.global_memories) == 2 * 16
    head.remember((x,), samples)
    assert head.queue.labels[:2].tolist() == [1, 0]


@torch.no_grad()
def test_initial_values_are_the_official_ones():
    torch.manual_seed(0)
    head = HMAClsHead(40, 96, attention=dict(null_kv=True))
    assert not head.global_memories.any()
    assert not head.local_read.null_key.any()
    torch.testing.assert_close(head.queue.rows.norm(dim=1), torch.ones(512))
    assert head.queue.rows.std() == pytest.approx(160**-0.5, rel=0.02)
    assert head.label_embeddings.weight.std() == pytest.approx(1, rel=0.05)
    weight, limit = head.local_read.query.weight, 160**-0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    assert weight.std() == pytest.approx(limit / 3**0.5, rel=0.02)
    normal = HMAClsHead(40, 96, global_memory_init='normal').global_memories
    assert normal.std() == pytest.approx(0.02, rel=0.02)
    assert normal.shape == (40 * 16, 96)


def test_parameters_keep_names_and_order():
    """Deltas go by the names; a resumed optimiser goes by the order."""
    leaves = [
        *(f'{norm}.{leaf}' for norm in ('query_norm', 'key_norm') for leaf in ('weight', 'bias')),
        *(f'{part}.{leaf}' for part in ('query', 'key', 'value') for leaf in ('weight', 'bias')),
        *(
            f'{part}.{leaf}'
            for part in ('mlp_norm', 'mlp.0', 'mlp.3')
            for leaf in ('weight', 'bias')
        ),
    ]
    reads = [f'{read}.{leaf}' for read in ('local_read', 'batch_read') for leaf in leaves]
    names = ['global_memories', 'label_embeddings.weight', *reads, 'fc.weight', 'fc.bias']
    head = make_head()
    assert [name for name, _ in head.named_parameters()] == names
    buffers = {'queue.rows', 'queue.pointer', 'queue.labels'}
    assert head.state_dict().keys() == {*names, *buffers}
    null = [name for name, _ in make_head(attention=dict(null_kv=True)).named_parameters()]
    assert set(null) - set(names) == {'local_read.null_key', 'batch_read.null_key'}


def test_memories_of_a_class_that_start_at_zero_stay_equal():
    head = make_head(global_memory_init='zeros').train()
    x, samples = batch(6)
    head.loss((x,), samples)['loss'].backward()
    by_class = head.global_memories.grad.unflatten(0, (CLASSES, 2))
    torch.testing.assert_close(by_class[:, 0], by_class[:, 1])
    assert by_class.abs().amax(dim=(1, 2)).min() > 0


def test_every_parameter_gets_a_gradient():
    """DDP waits for all of them, and knows of no unused ones."""
    for options in (
        {},
        dict(attention=dict(null_kv=True)),
        dict(logits_from='feature'),
        dict(logits_from='label'),
        dict(local_memory=None),
        dict(batch_attention=False, global_memory_per_class=0),
        dict(batch_attention=False, global_memory_per_class=0, local_memory=None),
        dict(attention=dict(topk=2, norm_after_topk=True)),
    ):
        head = make_head(**options).train()
        x, samples = batch(6)
        head.loss((x,), samples)['loss'].backward()
        missing = [name for name, p in head.named_parameters() if p.grad is None]
        assert not missing, options


def test_attention_weights_are_returned_for_pictures():
    head = make_head(attention=dict(null_kv=True)).eval()
    _, weights = head.read((batch(6)[0],), alone=False)
    assert weights['local'].shape == (4, 6, 1 + 12 + 1)
    assert weights['batch'].shape == (4, 6, 6 + 2 * CLASSES + 1)
    for part in weights.values():
        torch.testing.assert_close(part.sum(-1), torch.ones(4, 6))
    _, weights = head.read((batch(6)[0],), alone=True)
    assert weights['batch'].shape == (4, 6, 1 + 2 * CLASSES + 1)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(attention=dict(topk=14)), r'attention\.topk 14 .* 13 keys of the local memory'),
        (dict(attention=dict(topk=15, null_kv=True)), r'attention\.topk 15 .* 14 keys of the local'),
        (dict(attention=dict(topk=0)), r'attention\.topk 0 is not between 1'),
        (dict(attention=dict(topk=12)), r'attention\.topk 12 .* 11 keys that a test image has without'),
        (dict(attention=dict(num_heads=5)), r'attention\.num_heads 5 does not divide the width 32'),
        (dict(attention=dict(num_heads=0)), r'attention\.num_heads 0 does not divide'),
        (dict(attention=dict(topq=3)), r"head\.attention has no option 'topq': did you mean 'topk'"),
        (dict(attention=dict(dims=9)), r"head\.attention has no option 'dims'"),
        (dict(attention=dict(type='hstpeft.Attention')), "type 'hstpeft.Attention' is unknown"),
        (dict(logits_from='both'), "logits_from 'both' is unknown: use one of"),
        (dict(global_memory_init='ones'), "global_memory_init 'ones' is unknown"),
        (dict(local_memory=dict(update='rarely')), r"local_memory\.update 'rarely' is unknown"),
        (dict(batch_attention=False), 'global_memory_per_class 2 is not read .*: set it to 0'),
        (dict(local_memory=dict(size=0)), r'size 0 must be at least 1; .* head\.local_memory=None'),
        (dict(label_dims=0), 'label_dims 0 must be at least 1'),
        (
            dict(
                logits_from='label', local_memory=None, batch_attention=False,
                global_memory_per_class=0,
            ),
            "logits_from 'label' needs a label part",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options, words):
    with pytest.raises(UserError, match=words):
        make_head(**options)


@pytest.mark.parametrize(
    'old, words',
    [
        (dict(local_memory_size=0), r'local_memory=dict\(size=\.\.\.\) \(none: local_memory=None\)'),
        (dict(queue_update='never'), r'local_memory=dict\(update=\.\.\.\)'),
        (dict(attention_topk=3), r'attention=dict\(topk=\.\.\.\)'),
        *(
            ({name: 1}, rf'head\.{name} is now head\.attention\.{name}: write attention=dict\({name}')
            for name in (
                'num_heads', 'norm_after_topk', 'null_kv', 'softmax_temp', 'drop_rate', 'eps',
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_that_has_moved_is_refused_with_its_new_place(old, words):
    with pytest.raises(UserError, match=words):
        make_head(**old)


@pytest.mark.parametrize(
    ('topk', 'size', 'at_test'), [(13, 6, True), (11, 1, False)], ids=['coupled', 'alone']
)
def test_topk_at_the_limits_is_allowed(topk, size, at_test):
    head = make_head(attention=dict(topk=topk), batch_attention_at_test=at_test).eval()
    _, weights = head.read((batch(size)[0],), alone=not at_test)
    for row in weights.values():
        assert (row > 0).sum(dim=-1).eq(min(topk, row.shape[-1])).all()


def test_topk_above_the_keys_of_a_small_batch_is_named_when_it_happens():
    head = make_head(attention=dict(topk=12), batch_attention_at_test=True).eval()
    head((batch(2)[0],))
    with pytest.raises(UserError, match=r'attention\.topk 12 .* the 11 keys of this batch'):
        head((batch(1)[0],))


@pytest.mark.parametrize('label', [-1, CLASSES])
def test_a_label_out_of_range_is_named_before_anything_is_written(label):
    head = make_head().train()
    before = snapshot(head)
    with pytest.raises(UserError, match=f'num_classes 5: the training label {label} is not'):
        head.loss((batch(2)[0],), samples_of([0, label]))
    assert not changed(head, before)


def test_soft_labels_need_a_head_without_local_memory():
    samples = [DataSample().set_gt_score(torch.full((CLASSES,), 0.2)) for _ in range(4)]
    x, _ = batch(4)
    with pytest.raises(UserError, match='labels are soft: train without mixup'):
        make_head().train().loss((x,), samples)
    assert make_head(local_memory=None).train().loss((x,), samples)['loss'] > 0


def test_several_labels_of_a_sample_cannot_be_remembered():
    samples = [DataSample().set_gt_label([0, 2]), DataSample().set_gt_label(1)]
    with pytest.raises(UserError, match='there are 3 labels of 2 samples: set it to None'):
        make_head().train().loss((batch(2)[0],), samples)


@pytest.mark.parametrize('shape', [(2, DIMS + 1), (2, DIMS, 4, 4)])
def test_features_that_do_not_fit_are_named(shape):
    with pytest.raises(UserError, match='in_channels 24 does not fit the features of shape'):
        make_head()((torch.zeros(shape),))


COUNTS = {
    'readme_head_tuning_dtd (47 classes, 512 local, 16 global per class)': {},
    'local_only_47_classes_512': dict(global_memory_per_class=0, batch_attention=False),
    'global_only_47_classes_16': dict(local_memory=None),
}


@pytest.mark.parametrize('setting', COUNTS)
def test_published_sizes_are_reproduced(setting):
    counts = json.loads((REFERENCE / 'full_size_counts.json').read_text())['hma'][setting]
    with torch.device('meta'):
        head = HMAClsHead(47, 768, **COUNTS[setting])
    free = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert free == counts['trainable_without_encoder']
    assert (head.queue.rows.numel() if head.queue else 0) == counts['queue_values']


@pytest.mark.parametrize('options', [{}, dict(null_kv=True, topk=4)])
def test_mixed_precision_stays_close(options):
    x, samples = batch(6)
    losses = []
    for enabled in (False, True):
        head = make_head(attention=options).train()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss = head.loss((x,), samples)['loss']
        loss.backward()
        losses.append(loss.detach().float())
        assert head.queue.rows.dtype == torch.float32
        assert all(p.grad.isfinite().all() for p in head.parameters())
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)
