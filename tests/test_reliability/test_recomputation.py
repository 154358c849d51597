"""``with_cp``: the same function and gradients, with less kept for the backward pass (N6)."""

import pytest
import torch

from hstpeft.models import recompute
from tests.support.models import SWIN, backbone_config, build, hst_config, images, trunk_config
from tests.support.tiers import first_fast

DROPS = dict(proj_drop_rate=0.2, drop_path_rate=0.3, attn_drop_rate=0.2)
ARC = dict(type='hstpeft.ARCTuner', adapter_dims=4, drop_rate=0.3)
SA2VP = dict(type='hstpeft.SA2VPTuner', drop_rate=0.3)
HVT = dict(
    type='hstpeft.HVTTrunk',
    arch='hvt_ti_1',
    arch_options=dict(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, drop_path_rate=0.3
    ),
    pool_width=2,
)
SWIN_DROPS = {**SWIN, 'arch_options': {**SWIN['arch_options'], 'drop_path_rate': 0.3}}
CASES = {
    'hst': (None, hst_config(side_drop_path_rate=0.4, num_meta_tokens=2)),
    'arc': (None, ARC),
    'memory-prop': (None, dict(type='hstpeft.MemoryTokensTuner')),
    'memory-standard': (None, dict(type='hstpeft.MemoryTokensTuner', mode='standard')),
    'full': (None, dict(type='hstpeft.FullTuner')),
    'sa2vp': (None, SA2VP),
    'sa2vp-accelerated-copies': (None, {**SA2VP, 'accelerated': True, 'tie_cross_attention': False}),
    'swin-arc': (SWIN_DROPS, ARC),
    'swin-sa2vp': (SWIN_DROPS, SA2VP),
    'swin-full': (SWIN_DROPS, dict(type='hstpeft.FullTuner')),
    'hvt-arc': (HVT, ARC),
    'ssf': (None, dict(type='hstpeft.SSFTuner')),
    'swin-ssf': (SWIN_DROPS, dict(type='hstpeft.SSFTuner')),
    'vpt': (None, dict(type='hstpeft.VPTTuner', drop_rate=0.3)),
    'vpt-shallow-projected': (None, dict(type='hstpeft.VPTTuner', deep=False, prompt_dims=6)),
    'swin-vpt': (SWIN_DROPS, dict(type='hstpeft.VPTTuner', drop_rate=0.3)),
    'fact-tk': (None, dict(type='hstpeft.FacTTuner', form='tk', rank=3)),
    'adaptformer': (None, dict(type='hstpeft.AdaptFormerTuner', num_prompt_tokens=2)),
    'swin-adaptformer': (SWIN_DROPS, dict(type='hstpeft.AdaptFormerTuner', form='sequential')),
    'adapter-plus': (None, dict(type='hstpeft.AdapterPlusTuner', drop_path_rate=0.4)),
    'convpass': (None, dict(type='hstpeft.ConvpassTuner', drop_rate=0.3)),
    'swin-convpass': (SWIN_DROPS, dict(type='hstpeft.ConvpassTuner')),
    'swin-mona': (SWIN_DROPS, dict(type='hstpeft.MonaTuner', adapter_dims=6)),
    'bitfit': (None, dict(type='hstpeft.SelectiveTuner')),
}  # fmt: skip


def make(case: str, with_cp: bool):
    trunk, tuner = CASES[case]
    torch.manual_seed(3)  # a trunk without weights is drawn
    config = backbone_config(trunk or trunk_config(**DROPS), dict(tuner), with_cp=with_cp)
    return build(config).double().train()


def step(backbone, image):
    """Outputs and gradients of a training step with fixed random numbers."""
    torch.manual_seed(5)
    outputs = [x for out in backbone(image) for x in (out if isinstance(out, list) else [out])]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in outputs]
    sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)).backward()
    named = [(n, p) for n, p in backbone.named_parameters() if p.requires_grad]
    return outputs, {name: p.grad for name, p in named}


@pytest.mark.parametrize('case', first_fast(CASES))
def test_N6_outputs_and_gradients_are_equal_with_everything_that_drops(case):
    image = images(3, 3, 32, 32).double()
    plain, checkpointed = make(case, False), make(case, True)
    expected, expected_gradients = step(plain, image)
    got, gradients = step(checkpointed, image)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-8, atol=1e-8, msg=name
        )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(checkpointed.state_dict()[name], value, msg=name)
    # The random numbers matter: without the seed, something else is dropped.
    assert any(not a.equal(b) for a, b in zip(plain.train()(image)[0], got[0], strict=True))


@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
def test_N6_NC_the_reentrant_form_gives_no_gradients_behind_a_frozen_stem(monkeypatch):
    checkpoint = recompute.checkpoint

    def reentrant(*arguments, use_reentrant, **options):
        return checkpoint(*arguments, use_reentrant=True, **options)

    monkeypatch.setattr(recompute, 'checkpoint', reentrant)
    with pytest.raises(RuntimeError, match='does not require grad'):
        step(make('arc', True), images(3, 3, 32, 32).double())


def kept_bytes(backbone, image) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in [*backbone.parameters(), *backbone.buffers()]}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is met twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = backbone(image)
    del outputs
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    'case, share',
    [('hst', 0.3), ('arc', 0.1), ('full', 0.15), ('sa2vp', 0.1), ('swin-arc', 0.2)],
)
def test_less_is_kept_for_the_backward_pass(case, share):
    image = images(2, 3, 32, 32).double()
    plain, checkpointed = (kept_bytes(make(case, with_cp), image) for with_cp in (False, True))
    assert 0 < checkpointed < share * plain


@pytest.mark.parametrize('case', ['hst', 'swin-arc'])
def test_a_block_runs_again_only_where_there_is_a_backward_pass(case):
    backbone, calls = make(case, True), []
    backbone.trunk.block(0).norm1.register_forward_pre_hook(lambda *_: calls.append(0))
    image = images(1, 3, 32, 32).double()
    with torch.no_grad():
        outputs = backbone.eval()(image)
    assert len(calls) == 1 and not any(x.requires_grad for x in outputs)
    sum(x.sum() for x in backbone(image)).backward()
    assert len(calls) == 3


def test_the_state_does_not_tell_whether_a_backbone_checkpoints():
    plain, checkpointed = make('hst', False), make('hst', True)
    checkpointed.load_state_dict(plain.state_dict(), strict=True)
