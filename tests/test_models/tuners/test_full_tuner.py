"""Full tuning: the whole trunk is trained, saved, loaded and merged."""

import pytest
import torch
from torch import nn

from hstpeft.delta import load_checkpoint, make_delta, save_delta
from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from tests.support.models import (
    backbone_config,
    build,
    changed,
    hvt_config,
    images,
    snapshot,
    trunk_config,
)

FULL = dict(type='hstpeft.FullTuner')
SWIN = dict(embed_dim=16, depths=(2, 1), num_heads=(2, 2), window_size=4, img_size=32)
TRUNKS = {
    'vit': trunk_config,
    'random vit': lambda **options: trunk_config(weights=None, **options),
    'hvt': hvt_config,
    'random hvt': lambda **options: hvt_config(weights=None, **options),
    'swin': lambda **options: dict(
        type='hstpeft.SwinTrunk',
        arch='swin_tiny_patch4_window7_224',
        arch_options=SWIN,
        **options,
    ),
}
each_trunk = pytest.mark.parametrize('family', TRUNKS)


def classifier(family: str, seed: int | None = None) -> nn.Module:
    backbone = backbone_config(TRUNKS[family](), FULL)
    head = dict(type='LinearClsHead', num_classes=5, in_channels=32)
    return build(dict(type='ImageClassifier', backbone=backbone, head=head), seed=seed)


@each_trunk
def test_every_parameter_is_trained(family):
    model = classifier(family).train()
    before = snapshot(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(images(4, 3, 32, 32), mode='tensor').square().sum().backward()
        assert all(p.requires_grad and p.grad is not None for p in model.parameters())
        optimizer.step()
    assert changed(model, before) == dict(model.named_parameters()).keys()


@each_trunk
def test_the_delta_holds_the_whole_trunk_and_nothing_else(family):
    backbone = classifier(family).backbone
    trunk = {f'trunk.{name}' for name in backbone.trunk.state_dict()}
    assert len(trunk) > 40
    assert backbone.state_dict().keys() == {*trunk, '_extra_state'}


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@each_trunk
def test_round_trip_through_a_delta_file_is_bit_equal(family, suffix, tmp_path):
    image, trained = images(2, 3, 32, 32), classifier(family, seed=5).eval()
    path = tmp_path / f'delta{suffix}'
    save_delta(make_delta({'state_dict': trained.state_dict()}), path)
    fresh = classifier(family).eval()
    before = fresh(image, mode='tensor')
    fresh.load_state_dict(load_checkpoint(path)['state_dict'])
    assert fresh(image, mode='tensor').equal(trained(image, mode='tensor'))
    assert not before.equal(fresh(image, mode='tensor'))


def test_a_delta_of_another_trunk_is_refused():
    state = classifier('vit').state_dict()
    with pytest.raises(
        UserError, match=r'was made on the trunk .*, the model has the trunk random'
    ):
        classifier('random vit').load_state_dict(state)


@each_trunk
def test_the_merged_trunk_is_the_trained_one(family):
    model = classifier(family, seed=5).eval()
    image = images(2, 3, 32, 32)
    trunk, merged = merge(model)
    assert type(merged.backbone.tuner).__name__ == 'FrozenTuner'
    assert merged(image, mode='tensor').equal(model(image, mode='tensor'))
    config = TRUNKS[family]()
    plain = build(backbone_config({**config, 'weights': trunk}, dict(type='hstpeft.FrozenTuner')))
    assert plain.eval()(image)[0].equal(model.backbone(image)[0])


@each_trunk
def test_a_dtype_for_frozen_parameters_is_refused(family):
    with pytest.raises(
        UserError,
        match=r"trunk\.dtype 'bfloat16' does not go with FullTuner: it is for frozen.*--bf16",
    ):
        build(backbone_config(TRUNKS[family](dtype='bfloat16'), FULL))
