"""The norm of the side network's stem: which statistics it uses and what is trained."""

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn

from hstpeft.errors import UserError
from hstpeft.models.side.stem import STEM_NORMS, build_norm
from tests.support.models import backbone_config, build, hst_config, images

SHARED = ('BN', 'SyncBN', 'FrozenBN')


def make(norm: str, seed: int | None = 0):
    return build(backbone_config(tuner=hst_config(stem_norm=norm)), seed=seed)


def stem_norm(backbone) -> nn.Module:
    return backbone.tuner.side.stages[0].embed.conv[1]


def test_each_name_gives_its_norm():
    kinds = [type(stem_norm(make(name))).__name__ for name in STEM_NORMS]
    assert kinds == ['BatchNorm2d', 'SyncBatchNorm', 'FrozenBatchNorm2d', 'GroupNorm']
    default = build(backbone_config())
    assert type(stem_norm(default)) is nn.BatchNorm2d


@pytest.mark.parametrize('name', ['bn', 'LN', ''])
def test_an_unknown_norm_is_refused(name):
    with pytest.raises(UserError, match=f"tuner.stem_norm '{name}'.*FrozenBN"):
        make(name, seed=None)


@pytest.mark.parametrize('given', SHARED)
@pytest.mark.parametrize('own', SHARED)
def test_batch_norms_share_their_delta_and_give_the_same_in_evaluation(own, given):
    source, image = make(given, seed=1).eval(), images(2, 3, 32, 40)
    if given == 'FrozenBN':  # its affine is a buffer, which `build` leaves at the identity
        stem_norm(source).weight.uniform_(0.5, 2)
    target = make(own, seed=2).eval()
    assert not target(image)[0].equal(source(image)[0])
    target.load_state_dict(source.state_dict(), strict=True)
    for a, b in zip(target(image), source(image), strict=True):
        torch.testing.assert_close(a, b)


def test_a_group_norm_has_keys_of_its_own():
    with pytest.raises(UserError, match='running_mean'):
        make('GN').load_state_dict(make('BN').state_dict())


def test_a_frozen_batch_norm_uses_and_never_changes_its_statistics():
    frozen, image = make('FrozenBN'), images(3, 3, 32, 32)
    source = make('BN', seed=4).eval()
    frozen.load_state_dict(source.state_dict())
    frozen.train()
    before = {name: value.clone() for name, value in stem_norm(frozen).state_dict().items()}
    assert len(before) == 5
    for a, b in zip(frozen(image), source(image), strict=True):
        torch.testing.assert_close(a, b)
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], lr=0.1)
    sum(x.square().mean() for x in frozen(image)).backward()
    optimizer.step()
    after = stem_norm(frozen).state_dict()
    assert all(after[name].equal(value) for name, value in before.items())
    own = {id(p) for p in frozen.tuner.own_parameters()}
    assert not own & {id(p) for p in stem_norm(frozen).parameters()}
    first = frozen.tuner.side.stages[0].embed.conv[0].weight
    assert first.grad.abs().max() > 0  # what is before it is trained through it


@pytest.mark.parametrize(
    'convert', [nn.SyncBatchNorm.convert_sync_batchnorm, revert_sync_batchnorm]
)
def test_conversions_of_batch_norms_leave_a_frozen_one_alone(convert):
    assert type(stem_norm(convert(make('FrozenBN')))).__name__ == 'FrozenBatchNorm2d'


def test_what_mmengine_makes_of_sync_bn_without_processes_is_a_batch_norm():
    image, plain, synced = images(2, 3, 32, 32), make('BN').train(), make('SyncBN').train()
    reverted = revert_sync_batchnorm(synced)
    assert not isinstance(stem_norm(reverted), nn.SyncBatchNorm)
    assert all(a.equal(b) for a, b in zip(reverted(image), plain(image), strict=True))
    assert reverted.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    'dims, groups', [(64, 32), (32, 16), (12, 2), (8, 4), (6, 1), (5, 1), (1, 1)]
)
def test_groups_hold_two_channels_or_more(dims, groups):
    assert build_norm('GN', dims).num_groups == groups


def test_a_group_norm_does_not_mix_the_images_of_a_batch():
    backbone, image = make('GN').train(), images(3, 3, 32, 32)
    for together, alone in zip(backbone(image), backbone(image[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize('name', STEM_NORMS)
def test_a_batch_of_one_trains(name):
    backbone = make(name).train()
    sum(x.square().mean() for x in backbone(images(1, 3, 32, 32))).backward()
    free = [p for p in backbone.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in free)
