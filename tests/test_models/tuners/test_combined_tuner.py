"""Several tuners on one trunk: what each does alone, in any order; clashes are refused by name."""

import copy
import itertools

import pytest
import torch

from hstpeft.errors import UserError
from hstpeft.models.trunks import PLACES, Places
from tests.support import models
from tests.support.families import trunk_config, tuned

ARC = dict(type='hstpeft.ARCTuner', adapter_dims=4)
ADAPTFORMER = dict(type='hstpeft.AdaptFormerTuner', adapter_dims=4)
PROMPTED = dict(ADAPTFORMER, num_prompt_tokens=2)
PFEIFFER = dict(type='hstpeft.AdapterPlusTuner', form='pfeiffer')
HOULSBY = dict(PFEIFFER, form='houlsby')
BIASES = dict(type='hstpeft.SelectiveTuner')
CONVPASS = dict(type='hstpeft.ConvpassTuner', positions=['mlp'], adapter_dims=4)
FULL = dict(type='hstpeft.FullTuner')
HST = models.hst_config()
LORA = dict(type='hstpeft.LoRATuner', rank=2)
MEMORY = dict(type='hstpeft.MemoryTokensTuner')
MONA = dict(type='hstpeft.MonaTuner', adapter_dims=4)
NORMS = dict(type='hstpeft.SelectiveTuner', parts=['norms'])
REP_ATTENTION = dict(type='hstpeft.RepAdapterTuner', adapter_dims=4, positions=['attention'])
REP_MLP = dict(REP_ATTENTION, positions=['mlp'])
SA2VP = dict(type='hstpeft.SA2VPTuner', inner_dims=4)
SSF = dict(type='hstpeft.SSFTuner')
VPT = dict(type='hstpeft.VPTTuner', num_tokens=2)
SHALLOW = dict(VPT, deep=False)
COMBINED = {
    'lora + norms': ('vit', [LORA, NORMS]),
    'hst + ssf': ('vit', [HST, SSF]),
    'vpt + adaptformer': ('vit', [VPT, ADAPTFORMER]),
    'vpt + adaptformer + lora in a swin': ('swin', [VPT, ADAPTFORMER, LORA]),
    'arc + ssf in an hvt': ('hvt', [ARC, SSF]),
    'memory tokens + shallow vpt': ('vit', [MEMORY, SHALLOW]),
    'sa2vp + bitfit': ('vit', [SA2VP, BIASES]),
    'hst + lora': ('vit', [HST, LORA]),
    'adaptformer + ssf': ('eva', [ADAPTFORMER, SSF]),
    'repadapter at the attention + at the mlp': ('vit', [REP_ATTENTION, REP_MLP]),
    'vpt + convpass in a swin': ('swin', [VPT, CONVPASS]),
    'lora + mona in a swin': ('swin', [LORA, MONA]),
}
ACTING = (
    ADAPTFORMER, PROMPTED, ARC, VPT, SHALLOW, MEMORY, HST, PFEIFFER, HOULSBY, REP_ATTENTION, REP_MLP,
    CONVPASS, MONA,
)  # fmt: skip
CLASHES = [
    ([HST, VPT], 'HSTTuner and VPTTuner both put tokens of their own before the patches'),
    ([VPT, PROMPTED], 'VPTTuner and AdaptFormerTuner both put tokens of their own before'),
    ([HST, HST], 'HSTTuner and HSTTuner both put tokens'),
    ([SA2VP, SA2VP], 'SA2VPTuner and SA2VPTuner both run the blocks in a way of their own'),
    ([HST, SA2VP], 'HSTTuner makes maps .*, and SA2VPTuner runs them in its own way'),
    ([SA2VP, ARC], r'SA2VPTuner .* in which ARCTuner has no turn \(before_attention, before_mlp\)'),
    ([SA2VP, LORA], r'SA2VPTuner .* in which LoRATuner has no turn \(vit\.blocks\.0\.attn\.qkv\)'),
    ([MONA, PFEIFFER], 'MonaTuner and AdapterPlusTuner both act at the place after_block of a block'),
    ([CONVPASS, HOULSBY], 'ConvpassTuner and AdapterPlusTuner both act at the place after_mlp'),
    ([ARC, ADAPTFORMER, ARC], 'ARCTuner and ARCTuner both act at the place before_attention'),
    ([HOULSBY, dict(ADAPTFORMER, form='sequential')], 'both act at the place after_mlp of a block'),
    ([MEMORY, VPT], 'MemoryTokensTuner and VPTTuner both act at the place before_block'),
    ([SSF, LORA], r'SSFTuner and LoRATuner both stand on the layer blocks\.0\.attn\.qkv'),
    ([HST, NORMS], r"HSTTuner and SelectiveTuner both train the trunk's blocks\.0\.norm1\.weight"),
    ([FULL, BIASES], r"FullTuner and SelectiveTuner both train the trunk's patch_embed\.proj\.bias"),
    ([LORA, models.FROZEN], 'FrozenTuner has no effect among other tuners: leave it out'),
    ([], r"backbone\.tuner \[\] is empty: .* dict\(type='hstpeft\.FrozenTuner'\)"),
    ([LORA, [SSF]], r'backbone\.tuner\.1 .* must be a config'),
    ([LORA, dict(SSF, rank=4)], r"backbone\.tuner\.1 has no option 'rank'"),
    ([SSF, dict(LORA, rank=0)], r'backbone\.tuner\.1 LoRATuner: tuner\.rank 0 must be at least 1'),
    ([SSF, dict(LORA, positions=['fc3'])], r'backbone\.tuner\.1 LoRATuner: tuner\.positions'),
]  # fmt: skip


def backbone_of(family: str, tuner, **options) -> torch.nn.Module:
    return models.MODELS.build(
        dict(
            type='hstpeft.TunedBackbone', trunk=trunk_config(family), tuner=copy.deepcopy(tuner),
            **options,
        )
    ).eval()  # fmt: skip


def vectors(outputs) -> torch.Tensor:
    """All that a backbone gave, in one row."""
    flat = [part for out in outputs for part in (out if isinstance(out, list) else [out])]
    return torch.cat([part.flatten() for part in flat])


def trained(backbone: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('name', COMBINED)
def test_the_order_of_the_parts_changes_no_output_and_each_parameter_is_trained_by_one(name):
    family, parts = COMBINED[name]
    one, other = backbone_of(family, parts), backbone_of(family, parts[::-1])
    models.redraw(one, seed=1)
    count = len(parts)
    renamed = {f'tuner.parts.{i}.': f'tuner.parts.{count - 1 - i}.' for i in range(count)}

    def turned(key: str) -> str:
        start = next((old for old in renamed if key.startswith(old)), '')
        return renamed.get(start, '') + key.removeprefix(start)

    state = {turned(key): value for key, value in one.state_dict().items()}
    state['_extra_state'] = other.state_dict()['_extra_state']
    other.load_state_dict(state)
    image = models.images(2, 3, 32, 32)
    assert vectors(one(image)).equal(vectors(other(image)))

    vectors(one(image)).square().sum().backward()
    idle = [key for key, p in trained(one).items() if p.grad is None]
    assert idle == [], 'what does not run is not trained, so that DDP waits for nothing'
    alone = [trained(backbone_of(family, part)) for part in parts]
    sizes = [sum(p.numel() for p in own.values()) for own in alone]
    # With HST the final norm is not used, so SSF has nothing on it.
    unused = 2 * 32 if name == 'hst + ssf' else 0
    assert sum(p.numel() for p in trained(one).values()) == sum(sizes) - unused


def test_hst_trains_the_norms_themselves_and_ssf_what_stands_on_them():
    backbone = backbone_of('vit', [HST, SSF])
    norm = 'trunk.vit.blocks.0.norm1'
    own = {key for key in trained(backbone) if key.startswith(norm)}
    assert own == {
        f'{norm}.base_layer.weight', f'{norm}.base_layer.bias',
        f'{norm}.adapter.scale', f'{norm}.adapter.shift',
    }  # fmt: skip
    assert not any('trunk.vit.norm.' in key for key in trained(backbone))


def test_one_part_without_effect_leaves_the_other_as_it_is_alone():
    """LoRA begins as nothing: with VPT beside it the outputs are VPT's, and the maps have its form."""
    image = models.images(2, 3, 32, 32)
    alone = backbone_of('vit', VPT, out_type='featmap')
    both = backbone_of('vit', [LORA, VPT], out_type='featmap')
    models.redraw(alone, seed=1)
    both.tuner.parts[1].load_state_dict(alone.tuner.state_dict())
    assert vectors(both(image)).equal(vectors(alone(image)))
    assert both(image)[0].shape == (2, 32, 4, 4)


def test_a_list_of_one_is_that_one():
    one, listed = backbone_of('vit', LORA), backbone_of('vit', [LORA])
    assert listed.identity() == one.identity()
    listed.load_state_dict(one.state_dict())


def test_a_delta_knows_the_parts_their_options_and_their_order():
    backbone = backbone_of('vit', [LORA, VPT])
    models.redraw(backbone, seed=1)
    state, image = backbone.state_dict(), models.images(1, 3, 32, 32)
    assert all('lora_' in key or 'tuner.parts.1.prompts' in key for key in [*state][1:])
    again = backbone_of('vit', [LORA, VPT])
    again.load_state_dict(state)
    assert vectors(again(image)).equal(vectors(backbone(image)))
    copied = copy.deepcopy(backbone)
    assert {id(p) for p in copied.tuner.trunk_parameters(copied.trunk)} <= {
        id(p) for p in copied.parameters()
    }
    for other in ([VPT, LORA], [LORA, SHALLOW], [dict(LORA, alpha=4.0), VPT], VPT):
        with pytest.raises(UserError, match='the checkpoint'):
            backbone_of('vit', other).load_state_dict(state)
    prompts = [id(p) for p in backbone.tuner.parts[1].prompts]
    assert [id(p) for p in backbone.tuner.token_parameters()] == prompts
    assert backbone.identity().words == 'LoRATuner (alpha=8) + VPTTuner'


@pytest.mark.parametrize(('parts', 'words'), CLASHES)
def test_a_clash_is_refused_with_both_names_and_what_they_share(parts, words):
    with pytest.raises(UserError, match=words):
        backbone_of('vit', parts)


def test_a_trunk_that_lacks_what_one_part_needs_is_refused_by_the_name_of_that_part():
    with pytest.raises(UserError, match=r'MemoryTokensTuner is not defined for a SwinTrunk'):
        backbone_of('swin', [LORA, MEMORY])


@pytest.mark.parametrize('tuner', ACTING)
def test_a_place_that_a_tuner_does_not_name_is_one_at_which_it_does_nothing(tuner):
    backbone = tuned('vit', tuner)
    models.redraw(backbone, seed=1)
    part = backbone.tuner.at(backbone.trunk.layout((4, 4), 0))
    tokens = torch.randn(1, 17, 32)
    changed = set()
    for place, index in itertools.product(PLACES, (0, 1)):
        block = () if place == 'after_embedding' else (index,)
        normed = (tokens,) if place in ('after_attention', 'after_mlp') else ()
        if getattr(part, place)(*block, tokens, *normed) is not tokens:
            changed.add(place)
    assert part.acting_places == changed > set()
    assert Places().acting_places == set()
