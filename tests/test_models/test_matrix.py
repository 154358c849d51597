"""What holds for every tuner on every trunk that it is defined for, in a host's classifier.

A new method is one row of `TUNERS` in tests/support/matrix.py, a new trunk family one of `TRUNKS`. A tuner
of each kind on a ViT, and LoRA on every trunk, belong to the fast tier; all other pairs to the slow one.
"""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.trunks import Places
from tests.support import matrix, models

FAST_TUNERS = ('lora', 'vpt', 'ssf', 'hst', 'mona')
PAIRS = [
    pytest.param(
        tuner,
        trunk,
        marks=[pytest.mark.slow]
        * (tuner != 'lora' and (trunk, tuner in FAST_TUNERS) != ('vit', True)),
    )
    for tuner, trunk in matrix.DEFINED
]
each_pair = pytest.mark.parametrize(('tuner', 'trunk'), PAIRS)
STEPS = 3


def build(tuner: str, trunk: str, **options) -> nn.Module:
    """Build a classifier as a config would, the same each time."""
    config = matrix.classifier(tuner, trunk, **options)
    torch.manual_seed(0)
    return models.build(config, seed=None).eval()


def logits(model: nn.Module, size: int = 32) -> Tensor:
    """Classify two images of ``size`` x ``size`` pixels."""
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        return model.head(model.extract_feat(models.images(2, 3, size, size, seed=9).to(dtype)))


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    """The host's own loss of four images."""
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    losses = model(models.images(4, 3, 32, 32, seed=step), samples, mode='loss')
    return sum(value for name, value in losses.items() if 'loss' in name)


def train(model: nn.Module, steps: int = STEPS) -> set[str]:
    """Take SGD steps; returns the names of what ever had a gradient that is not zero."""
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(free.values(), lr=1e-2)
    model.train()
    moved = set()
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        # What DistributedDataParallel waits for, though it may be zero at first.
        assert not [name for name, p in free.items() if p.grad is None]
        moved |= {name for name, p in free.items() if p.grad.abs().max() > 0}
        optimizer.step()
    model.eval()
    return moved


def has_no_effect(name: str) -> bool:
    """Tell a bias of the side network's keys, which the softmax ignores."""
    return name.endswith('attn.k.bias')


@each_pair
def test_it_starts_as_the_trunk_where_its_paper_says_so(tuner, trunk):
    model, bare = build(tuner, trunk), build('frozen', trunk)
    if tuner in matrix.NOT_AS_TRUNK:
        own = model.extract_feat(models.images(2, 3, 32, 32))[-1]
        bare_ones = bare.extract_feat(models.images(2, 3, 32, 32))[-1]
        assert (
            not isinstance(own, Tensor) or own.shape != bare_ones.shape or not own.equal(bare_ones)
        )
    else:
        bare.head.load_state_dict(model.head.state_dict())
        assert (logits(model) - logits(bare)).abs().max() < 1e-5


@each_pair
def test_N5_training_moves_all_that_is_trainable_and_nothing_else(tuner, trunk):
    model = build(tuner, trunk)
    before = models.snapshot(model)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    moved = train(model)
    assert {name for name in free - moved if not has_no_effect(name)} == set()
    changed = models.changed(model, before)
    statistics = {
        name for name, _ in model.named_buffers() if not name.startswith('backbone.trunk.')
    }
    assert changed <= free | statistics


@each_pair
def test_a_delta_has_just_what_training_may_change_and_brings_back_the_logits(tuner, trunk):
    model = build(tuner, trunk)
    train(model, 1)
    delta = copy.deepcopy(model.state_dict())
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in model.named_buffers()} & delta.keys()
    copies = {name for name in delta if name.startswith('backbone.tuner.copies')}
    assert delta.keys() == free | buffers | copies | {f'backbone.{EXTRA_STATE}'}
    fresh = models.build(matrix.classifier(tuner, trunk), seed=5).eval()
    assert not logits(fresh).equal(logits(model))
    fresh.load_state_dict(delta, strict=True)
    assert logits(fresh).equal(logits(model))


@each_pair
def test_it_trains_as_many_values_as_its_formula_says(tuner, trunk):
    if tuner not in matrix.COUNTS:
        pytest.skip('its own tests count, against the official codes')
    backbone = build(tuner, trunk).backbone
    found = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert found == matrix.COUNTS[tuner](build('frozen', trunk).backbone.trunk)


@each_pair
def test_copies_modes_and_precisions_do_not_disturb_each_other(tuner, trunk):
    model = build(tuner, trunk)
    # As it starts: drawn weights are too large for a fair comparison of precisions.
    expected = logits(model)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = logits(model).float()
    assert (rounded - expected).abs().max() < 0.1 * expected.abs().max()
    models.redraw(model, 1)
    expected = logits(model)
    double = copy.deepcopy(model)
    assert logits(double).equal(expected)
    mine, other = ({id(t) for t in (*m.parameters(), *m.buffers())} for m in (model, double))
    assert not mine & other
    train(double, 1)
    assert logits(model).equal(expected) and not logits(double).equal(expected)
    assert logits(model.train().eval()).equal(expected)
    if trunk != 'hvt':
        assert logits(model, size=45).isfinite().all()


@each_pair
def test_a_trunk_in_bfloat16_leaves_what_is_trained_in_single_precision(tuner, trunk):
    if tuner in matrix.FLOAT32:
        with pytest.raises(UserError, match=r"trunk.dtype 'bfloat16' .*use 'float32'"):
            models.build(matrix.classifier(tuner, trunk, dtype='bfloat16'))
        return
    half, single = build(tuner, trunk, dtype='bfloat16'), build(tuner, trunk)
    dtypes = {(p.requires_grad, p.dtype) for p in half.backbone.parameters()}
    assert dtypes <= {(True, torch.float32), (False, torch.bfloat16)}
    got, expected = logits(half), logits(single)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()
    moved = train(half)
    assert {
        n for n, p in half.named_parameters() if p.requires_grad and not has_no_effect(n)
    } <= moved


@each_pair
def test_running_blocks_again_in_the_backward_pass_changes_no_gradient(tuner, trunk):
    plain, again = build(tuner, trunk), build(tuner, trunk, with_cp=True)
    gradients = []
    for model in (plain, again):
        models.redraw(model, 1)
        torch.manual_seed(0)
        loss_of(model.train()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@each_pair
def test_every_tensor_that_is_trained_changes_the_logits(tuner, trunk):
    model = build(tuner, trunk).double()
    models.redraw(model, 1)
    before = logits(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or has_no_effect(name):
                continue
            kept = parameter.clone()
            parameter += torch.randn(parameter.shape, dtype=torch.float64)
            assert (logits(model) - before).abs().max() > 1e-9, name
            parameter.copy_(kept)


@each_pair
def test_merged_it_gives_the_same_or_says_why_it_cannot_be(tuner, trunk):
    model = build(tuner, trunk).double()
    models.redraw(model, 1)
    if (tuner, trunk) in matrix.UNMERGEABLE:
        with pytest.raises(UserError, match='cannot be merged'):
            merge(model)
        return
    expected = logits(model)
    _, merged = merge(model)
    assert (logits(merged) - expected).abs().max() < 1e-10
    assert logits(model).equal(expected)
    assert not [p for p in merged.backbone.parameters() if p.requires_grad]


@pytest.mark.slow
@pytest.mark.parametrize(('tuner', 'trunk'), matrix.DEFINED)
def test_compiled_it_gives_the_same(tuner, trunk):
    model = build(tuner, trunk)
    models.redraw(model, 1)
    image = models.images(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.extract_feat(image)[-1]
        torch.compiler.reset()
        compiled = torch.compile(model.backbone, backend='eager')(image)[-1]
    compiled = model.neck((compiled,))[-1] if model.with_neck else compiled
    for one, other in zip(
        expected if isinstance(expected, list) else [expected],
        compiled if isinstance(compiled, list) else [compiled],
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize(('tuner', 'trunk'), matrix.UNDEFINED)
def test_a_trunk_that_the_method_is_not_defined_for_is_refused(tuner, trunk):
    with pytest.raises(UserError, match=matrix.REFUSAL):
        models.build(matrix.classifier(tuner, trunk))


@pytest.mark.parametrize(
    ('tuner', 'trunk'),
    [
        pytest.param(
            tuner, trunk, marks=[pytest.mark.slow] * (trunk != 'vit' or tuner not in FAST_TUNERS)
        )
        for tuner, trunk in matrix.DEFINED
        if not tuner.startswith('hst')
    ],
)
def test_what_runs_behind_the_last_output_is_neither_built_nor_trained(tuner, trunk):
    """DistributedDataParallel refuses parameters that have no part in the loss."""
    early = matrix.classifier(tuner, trunk)
    early['backbone']['out_indices'] = (2,)
    early['head']['in_channels'] = 64 if trunk == 'swin' else 32
    model = models.build(early, seed=None)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    assert train(model) == free


PLACES = [name for name, value in vars(Places).items() if callable(value) and name != 'at']


@pytest.mark.parametrize('trunk', matrix.TRUNKS)
def test_a_block_calls_every_place_once(trunk, monkeypatch):
    called = []

    def noted(name, place):
        return lambda *arguments: called.append(name) or place(*arguments)

    for name in PLACES:
        monkeypatch.setattr(Places, name, noted(name, getattr(Places, name)))
    built = models.MODELS.build(dict(matrix.TRUNKS[trunk]))
    tokens, grid = built.embed(models.images(1, 3, 32, 32))
    built.run(tokens, Places(), [0], grid)
    assert len(PLACES) == 10 and sorted(called) == sorted(PLACES)


@pytest.mark.parametrize(
    'tuner',
    [
        pytest.param(tuner, marks=[pytest.mark.slow] * (tuner not in FAST_TUNERS))
        for tuner, trunk in matrix.DEFINED
        if trunk == 'vit' and not tuner.startswith('hst')
    ],
)
def test_maps_of_a_plain_tuner_have_the_cells_of_the_image(tuner):
    config = matrix.classifier(tuner, 'vit')['backbone']
    backbone = models.build({**config, 'out_type': 'featmap', 'out_indices': (1, 3)})
    maps = backbone(models.images(2, 3, 40, 27))
    assert [tuple(x.shape) for x in maps] == [(2, 32, 5, 4)] * 2


def test_a_delta_of_one_form_of_sa2vp_does_not_load_into_the_other():
    plain, accelerated = (
        models.build(matrix.classifier(tuner, 'vit')) for tuner in ('sa2vp', 'sa2vp-accelerated')
    )
    with pytest.raises(UserError, match=r'made with the tuner SA2VPTuner, .* \(accelerated\)'):
        accelerated.load_state_dict(plain.state_dict())
