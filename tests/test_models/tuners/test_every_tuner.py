"""What holds for every tuner on every trunk that it is defined for, in a host's classifier.

A new method is one row of `TUNERS`; a new trunk family is one of `TRUNKS`, its width, and its name
among the trunks that some methods ask for.
"""

import copy
import hashlib

import pytest
import torch
from mmpretrain.structures import DataSample

from hstpeft.errors import UserError
from hstpeft.models.trunks import Places
from tests.support import models

TRUNKS = {
    'vit': dict(
        type='hstpeft.ViTTrunk',
        arch=models.ARCH,
        arch_options={**models.VIT, 'weight_init': ''},
    ),
    'swin': dict(
        type='hstpeft.SwinTrunk',
        arch='swin_tiny_patch4_window7_224',
        arch_options=dict(
            img_size=32,
            patch_size=2,
            embed_dim=16,
            depths=(1, 1, 4, 1),
            num_heads=(2, 2, 2, 4),
            window_size=4,
        ),
    ),
    'hvt': dict(
        type='hstpeft.HVTTrunk',
        arch='hvt_ti_1',
        arch_options=dict(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2),
        pool_width=2,
    ),
}
WIDTHS = {'vit': 32, 'swin': 128, 'hvt': 32}
# Trunks by what methods need of them; written out, so that a lost capability is noticed.
EVERY = tuple(TRUNKS)
ONE_SEQUENCE = ('vit',)
FRONT_TOKENS = ('vit', 'swin')
TUNERS = {
    'frozen': (dict(type='hstpeft.FrozenTuner'), EVERY),
    'full': (dict(type='hstpeft.FullTuner'), EVERY),
    'hst': (models.hst_config(), ONE_SEQUENCE),
    'arc': (dict(type='hstpeft.ARCTuner', adapter_dims=4), EVERY),
    'arc-att': (dict(type='hstpeft.ARCTuner', positions=['attention']), EVERY),
    'lora': (
        dict(type='hstpeft.LoRATuner', positions=['qkv', 'proj', 'fc1', 'fc2'], rank=2),
        EVERY,
    ),
    'sa2vp': (dict(type='hstpeft.SA2VPTuner', inner_dims=4), ('vit', 'swin')),
    'sa2vp-accelerated': (dict(type='hstpeft.SA2VPTuner', accelerated=True), ('vit',)),
    'memory-tokens': (dict(type='hstpeft.MemoryTokensTuner', num_memory_tokens=2), ONE_SEQUENCE),
    'memory-tokens-standard': (
        dict(type='hstpeft.MemoryTokensTuner', mode='standard'),
        ONE_SEQUENCE,
    ),
    'ssf': (dict(type='hstpeft.SSFTuner'), EVERY),
    'vpt': (dict(type='hstpeft.VPTTuner', num_tokens=2), FRONT_TOKENS),
    'vpt-shallow': (dict(type='hstpeft.VPTTuner', deep=False), FRONT_TOKENS),
    'bitfit': (dict(type='hstpeft.SelectiveTuner'), EVERY),
    'adaptformer': (dict(type='hstpeft.AdaptFormerTuner'), EVERY),
    'repadapter': (dict(type='hstpeft.RepAdapterTuner'), EVERY),
    'fact-tt': (dict(type='hstpeft.FacTTuner', rank=3), ('vit', 'hvt')),
    'fact-tk': (dict(type='hstpeft.FacTTuner', form='tk', rank=3), ('vit', 'hvt')),
}
DEFINED = [(name, trunk) for name, (_, trunks) in TUNERS.items() for trunk in trunks]
UNDEFINED = [(name, trunk) for name in TUNERS for trunk in TRUNKS if trunk not in TUNERS[name][1]]


def config(tuner, trunk, weights='drawn'):
    """Config of a classifier; the trunk's weights are drawn once, and so pre-trained."""
    trunk_config = {**TRUNKS[trunk], 'weights': pretrained(trunk) if weights == 'drawn' else None}
    width = models.SIDE['side_dims'][-1] if tuner == 'hst' else WIDTHS[trunk]
    head = 'hstpeft.TwoBranchClsHead' if tuner.startswith('sa2vp') else 'LinearClsHead'
    parts = dict(neck=dict(type='hstpeft.PooledNorm', in_channels=width)) if tuner == 'hst' else {}
    return dict(
        type='ImageClassifier',
        data_preprocessor=models.MEAN_STD,
        backbone=dict(
            type='hstpeft.TunedBackbone', trunk=trunk_config, tuner=dict(TUNERS[tuner][0])
        ),
        head=dict(type=head, num_classes=5, in_channels=width),
        **parts,
    )


def pretrained(trunk):
    net = models.MODELS.build(dict(TRUNKS[trunk])).net
    return models.draw({name: value.shape for name, value in net.state_dict().items()}, seed=3)


def train(model, steps):
    """Take SGD steps through the host's own loss; returns the names that ever had a gradient."""
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(free.values(), lr=1e-2)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    moved = set()
    model.train()
    for step in range(steps):
        losses = model(models.images(4, 3, 32, 32, seed=step), samples, mode='loss')
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        moved |= {n for n, p in free.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
        optimizer.zero_grad()
    return moved


PLACES = [name for name, value in vars(Places).items() if callable(value) and name != 'at']


@pytest.mark.parametrize('trunk', TRUNKS)
def test_a_block_calls_every_place_once(trunk, monkeypatch):
    called = []

    def noted(name, place):
        return lambda *arguments: called.append(name) or place(*arguments)

    for name in PLACES:
        monkeypatch.setattr(Places, name, noted(name, getattr(Places, name)))
    built = models.MODELS.build(dict(TRUNKS[trunk]))
    tokens, grid = built.embed(models.images(1, 3, 32, 32))
    built.run(tokens, Places(), [0], grid)
    assert len(PLACES) == 10 and sorted(called) == sorted(PLACES)


def logits(model, size=32):
    model.eval()
    with torch.no_grad():
        return model.head(model.extract_feat(models.images(2, 3, size, size, seed=9)))


def digests(model):
    """Hash every frozen parameter and every buffer of the trunk."""
    named = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    named += [(f'buffer {name}', b) for name, b in model.backbone.trunk.named_buffers()]
    return {name: hashlib.sha256(x.detach().numpy().tobytes()).hexdigest() for name, x in named}


@pytest.mark.parametrize(('tuner', 'trunk'), DEFINED)
def test_N5_two_steps_give_all_that_is_trainable_a_gradient_and_move_nothing_else(tuner, trunk):
    model = models.build(config(tuner, trunk), seed=None)
    before = digests(model)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    moved = train(model, 2)
    # A key bias has no effect under the softmax, and the last norm before a BatchNorm without
    # affine only rounds; the side network's own tests say which.
    assert moved == free - {n for n in free - moved if n.endswith('attn.k.bias')}
    train(model, 2)  # the rest of an epoch
    assert digests(model) == before and (before or tuner == 'full')


@pytest.mark.parametrize(('tuner', 'trunk'), DEFINED)
def test_a_delta_brings_back_the_same_logits(tuner, trunk):
    model = models.build(config(tuner, trunk), seed=None)
    train(model, 1)
    delta = copy.deepcopy(model.state_dict())
    other = models.build(config(tuner, trunk), seed=5)
    assert not logits(other).equal(logits(model))
    other.load_state_dict(delta, strict=True)
    assert logits(other).equal(logits(model))
    frozen = {n for n, p in model.backbone.named_parameters() if not p.requires_grad}
    own_copies = {n for n in frozen if n.startswith('tuner.copies')}
    assert not {f'backbone.{n}' for n in frozen - own_copies} & delta.keys()


@pytest.mark.parametrize(('tuner', 'trunk'), [pair for pair in DEFINED if pair[0] != 'hst'])
def test_what_runs_behind_the_last_output_is_neither_built_nor_trained(tuner, trunk):
    """DistributedDataParallel refuses parameters that have no part in the loss."""
    early = config(tuner, trunk)
    early['backbone']['out_indices'] = (2,)
    early['head']['in_channels'] = 64 if trunk == 'swin' else 32
    model = models.build(early, seed=None)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    assert train(model, 3) == free


@pytest.mark.parametrize(('tuner', 'trunk'), [pair for pair in DEFINED if pair[1] != 'hvt'])
def test_images_of_any_size_pass(tuner, trunk):
    model = models.build(config(tuner, trunk))
    assert logits(model, size=45).isfinite().all()


@pytest.mark.parametrize(('tuner', 'trunk'), UNDEFINED)
def test_a_trunk_that_the_method_is_not_defined_for_is_refused(tuner, trunk):
    with pytest.raises(UserError, match=r'is not defined for a|does not exist for a Swin'):
        models.build(config(tuner, trunk))


@pytest.mark.parametrize('tuner', [name for name in TUNERS if name != 'hst'])
def test_maps_of_a_plain_tuner_have_the_cells_of_the_image(tuner):
    trunk = {**TRUNKS['vit'], 'weights': pretrained('vit')}
    backbone = models.build(
        dict(
            type='hstpeft.TunedBackbone',
            trunk=trunk,
            tuner=dict(TUNERS[tuner][0]),
            out_type='featmap',
            out_indices=(1, 3),
        )
    )
    maps = backbone(models.images(2, 3, 40, 27))
    assert [tuple(x.shape) for x in maps] == [(2, 32, 5, 4)] * 2


def test_a_delta_of_one_form_of_sa2vp_does_not_load_into_the_other():
    plain, accelerated = (models.build(config(t, 'vit')) for t in ('sa2vp', 'sa2vp-accelerated'))
    with pytest.raises(UserError, match=r'made with the tuner SA2VPTuner, .* \(accelerated\)'):
        accelerated.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(('tuner', 'trunk'), DEFINED)
def test_every_tensor_that_is_trained_changes_the_logits(tuner, trunk):
    model = models.build(config(tuner, trunk)).double().eval()
    image = models.images(2, 3, 32, 32, seed=9).double()
    with torch.no_grad():
        before = model.head(model.extract_feat(image))
        for name, parameter in model.named_parameters():
            # A bias of keys alone has no effect under the softmax.
            if not parameter.requires_grad or name.endswith('attn.k.bias'):
                continue
            kept = parameter.clone()
            parameter += torch.randn(parameter.shape, dtype=torch.float64)
            assert (model.head(model.extract_feat(image)) - before).abs().max() > 1e-9, name
            parameter.copy_(kept)
