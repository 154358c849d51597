"""HF peft through one door: every method of the installed peft trains, is saved, merges, or is refused."""

import copy

import pytest
import torch
from torch import nn

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.tuners.peft_types import VARIANTS
from tests.support.families import FROZEN, shake, tuned
from tests.support.models import images

peft = pytest.importorskip('peft')

KINDS = {kind.value for kind in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING} | VARIANTS.keys()
FAST = {
    'DORA': dict(r=4),
    'OFT': {},
    'VBLORA': dict(vector_length=16, num_vectors=8),
    'VERA': dict(r=4),
}
METHODS = {
    **FAST, 'BEFT': {}, 'BOFT': {}, 'C3A': dict(block_size=8), 'DEFT': {}, 'DELORA': {},
    'FOURIERFT': dict(n_frequency=20), 'GRALORA': dict(r=4), 'HIRA': dict(r=4), 'HRA': {}, 'IA3': {},
    'LILY': dict(r=4), 'LN_TUNING': {}, 'LOHA': {}, 'LOKR': {}, 'LORA': {}, 'MISS': dict(r=8),
    'PEANUT': dict(r=4), 'PSOFT': dict(r=4), 'PVERA': dict(r=4), 'RANDLORA': dict(r=4),
    'ROAD': dict(group_size=16), 'SHIRA': dict(r=4), 'SUPERTUNING': {}, 'TINYLORA': {},
    'UNILORA': {}, 'WAVEFT': dict(n_frequency=20),
}  # fmt: skip
PROMPTS = {
    'ADAPTION_PROMPT', 'CARTRIDGE', 'CPT', 'MULTITASK_PROMPT_TUNING', 'PREFIX_TUNING',
    'PROMPT_TUNING', 'P_TUNING', 'TRAINABLE_TOKENS',
}  # fmt: skip
REFUSED = {'ADALORA', 'ADAMSS', 'FROD', 'GLORA', 'OSF', 'POLY', 'SHADOW', 'XLORA'}
DRAWN_AT_FIRST = {'C3A', 'FOURIERFT', 'UNILORA', 'VBLORA'}
IMAGE = images(2, 3, 32, 32)

each_method = pytest.mark.parametrize(
    'method', [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)


def backbone(method, family='vit', positions=('qkv', 'fc2'), trunk=None, with_cp=False, **options):
    """Build a tiny backbone with one of peft's methods."""
    tuner = dict(type='hstpeft.HFPeftTuner', peft_type=method, positions=positions)
    tuner.update({**METHODS.get(method, {}), **options})
    return tuned(family, tuner, trunk=trunk, out_type='raw', with_cp=with_cp)


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Host(nn.Module):
    """What `merge` needs of a host's model."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model


def test_every_method_of_the_installed_peft_is_known():
    assert METHODS.keys() | PROMPTS | REFUSED == KINDS


@pytest.mark.parametrize('method', sorted(PROMPTS | REFUSED))
def test_what_needs_a_language_model_is_refused_with_a_remedy(method):
    remedy = (
        r'use hstpeft\.VPTTuner' if method in PROMPTS else r"; use ('LORA'|'PSOFT'|hstpeft\.Full)"
    )
    with pytest.raises(UserError, match=f"'{method}' does not run on a trunk: it .*{remedy}"):
        backbone(method)


def check_parameters(model):
    """Each tensor that is trained has a gradient and changes the output; nothing else is trained."""
    before = model(IMAGE)[0]
    before.square().mean().backward()
    for name, parameter in trained(model).items():
        assert parameter.grad.any() and 'base_layer' not in name, name
        with torch.no_grad():
            kept = parameter.clone()
            parameter.add_(torch.randn(parameter.shape))
            assert (model(IMAGE)[0] - before).abs().max() > 1e-6, name
            parameter.copy_(kept)


@each_method
def test_all_that_is_trained_acts_and_a_delta_brings_it_back(method):
    torch.manual_seed(0)
    plain = tuned('vit', FROZEN, out_type='raw')(IMAGE)[0]
    model = backbone(method)
    if method not in DRAWN_AT_FIRST:
        torch.testing.assert_close(model(IMAGE)[0], plain, rtol=0, atol=1e-5)
    shake(model)
    assert not model(IMAGE)[0].allclose(plain, atol=1e-3)
    check_parameters(model)
    state = model.state_dict()
    addresses = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(addresses)) == len(addresses), 'a shared tensor is there more than once'
    assert trained(model).keys() <= state.keys()
    assert not any('base_layer' in name for name in state)
    other = shake(backbone(method), seed=5)
    assert not other(IMAGE)[0].equal(model(IMAGE)[0])
    other.load_state_dict(copy.deepcopy(state), strict=True)
    assert other(IMAGE)[0].equal(model(IMAGE)[0])


@each_method
def test_copies_recomputation_and_half_precision(method):
    model = shake(backbone(method))
    output = model(IMAGE)[0]
    output.square().mean().backward()
    twin = copy.deepcopy(model)
    assert twin(IMAGE)[0].equal(output) and twin.state_dict().keys() == model.state_dict().keys()
    shake(twin, seed=9)
    assert model(IMAGE)[0].equal(output) and not twin(IMAGE)[0].equal(output)
    again = shake(backbone(method, with_cp=True))
    again(IMAGE)[0].square().mean().backward()
    for name, parameter in trained(again).items():
        torch.testing.assert_close(parameter.grad, trained(model)[name].grad, rtol=1e-4, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = model(IMAGE)[0]
    assert (mixed - output).norm() < 0.2 * output.norm()
    if method == 'LN_TUNING':
        with pytest.raises(UserError, match=r"trunk.dtype 'bfloat16' .*use 'float32'"):
            backbone(method, trunk=dict(dtype='bfloat16'))
        return
    half = shake(backbone(method, trunk=dict(dtype='bfloat16')))
    assert {p.dtype for p in trained(half).values()} == {torch.float32}
    got = half(IMAGE)[0]
    assert (got - output).norm() < 0.3 * output.norm()
    got.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in trained(half).values())


@each_method
def test_merging_gives_the_trunk_by_its_own_names_or_one_line(method):
    model = shake(backbone(method)).double()
    image = IMAGE.double()
    output = model(image)[0]
    if method == 'LILY':
        with pytest.raises(UserError, match=r'\(LILY\) cannot be merged .*tools/delta.py export'):
            merge(Host(model))
        return
    tensors, merged = merge(Host(model))
    inexact = method in ('C3A', 'DEFT')  # in which peft goes through float32
    torch.testing.assert_close(
        merged.backbone(image)[0], output, rtol=0, atol=1e-5 if inexact else 1e-10
    )
    plain = tuned('vit', FROZEN).trunk.net
    assert {n: type(m) for n, m in plain.named_modules()} == {
        n: type(m) for n, m in merged.backbone.trunk.net.named_modules()
    }
    moved = {name for name, p in plain.named_parameters() if not p.double().equal(tensors[name])}
    assert moved and all(n.split('.')[-2] in ('qkv', 'fc2') for n in moved)


@pytest.mark.parametrize(
    ('family', 'method', 'positions'),
    [
        ('swin', 'LORA', ('qkv', 'fc1')),
        ('swin', 'DORA', ('qkv', 'fc1')),
        ('swin', 'OFT', ('qkv', 'proj')),
        ('eva', 'LORA', ('qkv', 'proj')),
        ('eva', 'VERA', ('qkv',)),
    ],
)
def test_attention_does_not_bypass_what_stands_on_its_linears(family, method, positions):
    check_parameters(shake(backbone(method, family, positions=positions)))


@pytest.mark.parametrize('method', ['OFT', 'GRALORA'])
def test_what_peft_takes_for_a_convolution_is_refused_on_maps(method):
    with pytest.raises(UserError, match=rf"leave \['fc2'\] out for {method}"):
        backbone(method, 'swin')


@pytest.mark.parametrize('method', ['LORA', 'DORA', 'LOHA', 'BOFT', 'IA3', 'HRA', 'HIRA'])
def test_the_patch_convolution_is_adapted_and_merges(method):
    model = shake(backbone(method, positions=('patch',)))
    check_parameters(model)
    _, merged = merge(Host(model))
    torch.testing.assert_close(merged.backbone(IMAGE)[0], model(IMAGE)[0], rtol=0, atol=1e-4)


def test_norms_are_a_position_of_what_copies_them():
    model = backbone('LN_TUNING', positions=('norm1', 'norm2'))
    assert sum(p.numel() for p in trained(model).values()) == 4 * 2 * 2 * 32
    check_parameters(shake(model))


def test_only_the_blocks_that_run_are_adapted():
    tuner = dict(type='hstpeft.HFPeftTuner', peft_type='LORA', positions=['qkv', 'proj'])
    model = tuned('vit', tuner, trunk=dict(arch_options=dict(depth=12)), out_indices=(10,))
    names = {name.rpartition('.lora_')[0] for name in trained(model)}
    prefix = 'trunk.vit.blocks'
    assert names == {f'{prefix}.{i}.attn.{n}' for i in range(11) for n in ('qkv', 'proj')}


def test_ia3_scales_what_fc2_reads_and_what_the_others_give():
    shapes = {n.split('.')[-3]: tuple(p.shape) for n, p in trained(backbone('IA3')).items()}
    assert shapes == {'qkv': (96, 1), 'fc2': (1, 128)}
    model = backbone('IA3', feedforward_modules=['qkv'])
    shapes = {n.split('.')[-3]: tuple(p.shape) for n, p in trained(model).items()}
    assert shapes == {'qkv': (1, 32), 'fc2': (32, 1)}


def test_projections_are_in_the_delta_once_or_hashed_in_its_identity():
    kept = backbone('VERA').state_dict()
    assert sum(name.endswith(('vera_A.default', 'vera_B.default')) for name in kept) == 2
    model = shake(backbone('VERA', save_projection=False))
    assert model.state_dict().keys() == trained(model).keys() | {'_extra_state'}
    other = backbone('VERA', save_projection=False)
    other.load_state_dict(model.state_dict())
    assert other(IMAGE)[0].equal(model(IMAGE)[0])
    seeded = backbone('VERA', save_projection=False, projection_prng_key=1)
    drawn = seeded.tuner.description()['drawn']
    assert drawn and drawn != model.tuner.description()['drawn']
    with pytest.raises(UserError, match=r'other options of HFPeftTuner \(VERA\)'):
        seeded.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ('method', 'options', 'words'),
    [
        ('LORRA', {}, r"tuner.peft_type 'LORRA' is unknown to peft .*did you mean 'LORA'"),
        ('LORA', dict(lora_alhpa=2), r"tuner.lora_alhpa: .* for LORA: did you mean 'lora_alpha'"),
        ('LORA', dict(target_modules=['qkv']), 'cannot be set: tuner.positions says where'),
        ('OFT', dict(bias='all'), r"tuner.bias 'all' cannot be set: hstpeft.SelectiveTuner"),
        ('LORA', dict(init_lora_weights='eva'), 'needs data'),
        ('LORA', dict(init_lora_weights='pissa'), 'it changes the frozen weights'),
        ('LORA', dict(init_lora_weights='olora'), 'it changes the frozen weights'),
        ('LORA', dict(positions=['norm1']), r'LORA on .*peft says: Target module LayerNorm'),
        ('LORA', dict(positions=['qvk']), "tuner.positions 'qvk' is unknown: did you mean 'qkv'"),
        (
            'LORA',
            dict(positions=['q']),
            r"tuner.positions \('q',\): .* no q in .*: use qkv instead",
        ),
        ('LORA', dict(r=0), 'peft says: .*`r` should be a positive integer'),
        ('MISS', dict(r=64), r'MISS on .*peft says: `r` \(64\) must be less than or equal'),
        ('IA3', dict(feedforward_modules=['fc1']), r"feedforward_modules \['fc1'\] must be among"),
        ('OFT', dict(positions=['patch']), "leave 'patch' out for OFT: peft's changes"),
    ],
)
def test_a_wrong_option_is_one_line(method, options, words):
    with pytest.raises(UserError, match=words) as info:
        backbone(method, **options)
    assert '\n' not in str(info.value)


def test_a_delta_of_another_method_or_scale_is_refused():
    state = backbone('LORA', lora_alpha=2).state_dict()
    with pytest.raises(UserError, match=r'other options of HFPeftTuner \(LORA\)'):
        backbone('LORA', lora_alpha=4).load_state_dict(state)
    with pytest.raises(
        UserError, match=r'HFPeftTuner \(LORA\), the model has HFPeftTuner \(DORA\)'
    ):
        backbone('DORA').load_state_dict(state)
    backbone('LORA', lora_alpha=2, lora_dropout=0.1).load_state_dict(state)
