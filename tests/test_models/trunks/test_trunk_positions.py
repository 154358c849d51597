"""Position embeddings follow the image; precision and identity of a trunk."""

import copy

import pytest
import torch
from torch.nn import functional as F

import hstpeft.models.trunks.sequence as sequence_module
from hstpeft.delta import fingerprint
from hstpeft.models import ViTTrunk
from hstpeft.models.tuners import FrozenTuner
from tests.support.models import (
    ARCH,
    VIT,
    backbone_config,
    build,
    images,
    trunk_config,
    vit_weights,
)


def make_trunk(weights, arch: str = ARCH, **options) -> ViTTrunk:
    return ViTTrunk(arch, {**VIT, **options}, weights)


def resized(pos_embed, old, new, num_prefix=1):
    """Resize by torch alone: bicubic with antialiasing, prefix tokens apart."""
    prefix, patches = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    maps = patches.transpose(1, 2).unflatten(2, old)
    maps = F.interpolate(maps, size=new, mode='bicubic', antialias=True, align_corners=False)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)


def position_part(trunk: ViTTrunk, image):
    """What `embed` adds: its tokens minus those of the same trunk with zero positions."""
    tokens, grid = trunk.embed(image)
    zeroed = make_trunk({**trunk.vit.state_dict(), 'pos_embed': 0 * trunk.vit.pos_embed.detach()})
    return tokens - zeroed.embed(image)[0], grid


@pytest.mark.parametrize('height, width', [(32, 32), (24, 56), (16, 16), (48, 48)])
def test_positions_are_resampled_to_the_image_as_an_independent_resize_does(height, width):
    weights = vit_weights()
    part, grid = position_part(make_trunk(weights), images(1, 3, height, width))
    assert grid == (height // 8, width // 8)
    expected = (
        resized(weights['pos_embed'], (4, 4), grid) if grid != (4, 4) else weights['pos_embed']
    )
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-5)


def test_a_file_of_another_resolution_keeps_its_identity_and_its_own_grid():
    weights = vit_weights(img_size=48)  # 6 x 6 patches; the arch asks for 4 x 4
    trunk = make_trunk(weights)
    assert trunk.identity == fingerprint(weights) == make_trunk(weights, img_size=48).identity
    part, _ = position_part(trunk, images(1, 3, 32, 32))
    torch.testing.assert_close(
        part, resized(weights['pos_embed'], (6, 6), (4, 4)), rtol=0, atol=1e-5
    )
    assert trunk.vit.state_dict()['pos_embed'].equal(weights['pos_embed'])


def test_a_file_with_a_grid_that_is_not_square_needs_its_image_size():
    weights = vit_weights(img_size=(32, 48))
    tokens, grid = make_trunk(weights, img_size=(32, 48)).embed(images(1, 3, 32, 48))
    assert grid == (4, 6) and tokens.shape == (1, 25, 32)
    with pytest.raises(ValueError, match='img_size'):
        make_trunk(weights)


@pytest.mark.parametrize(
    'options',
    [
        dict(reg_tokens=3),
        dict(reg_tokens=2, no_embed_class=True),
        dict(pre_norm=True),
        dict(class_token=False, global_pool='avg', no_embed_class=True),
        dict(init_values=0.5),
        dict(qk_norm=True),
        dict(pos_embed='none'),
    ],
    ids=lambda o: '-'.join(o),
)
@pytest.mark.parametrize('size', [(32, 32), (24, 40)])
def test_tokens_of_every_plain_vit_equal_those_of_timm(options, size):
    import timm

    weights = vit_weights(**options)
    vit = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True, **{**VIT, **options})
    vit.load_state_dict(weights)
    trunk = make_trunk(weights, **options).eval()
    image = images(2, 3, *size)
    tokens, _ = trunk.embed(image)
    with torch.no_grad():
        torch.testing.assert_close(tokens, vit.norm_pre(vit._pos_embed(vit.patch_embed(image))))
        last = trunk.run(tokens, FrozenTuner(), (3,))[3]
        expected = vit.eval().forward_features(image)
        torch.testing.assert_close(trunk.final_norm(last), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def calls(monkeypatch):
    """Count how often the position embedding is resampled."""
    seen, original = [], sequence_module.resample_abs_pos_embed

    def counted(*args, **kwargs):
        seen.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(sequence_module, 'resample_abs_pos_embed', counted)
    return seen


def frozen_trunk() -> ViTTrunk:
    return make_trunk(vit_weights()).requires_grad_(False)


def test_a_frozen_position_embedding_is_resampled_once_a_grid(calls):
    trunk = frozen_trunk()
    for size in ((24, 40), (48, 48), (24, 40), (48, 48), (32, 32)):
        trunk.embed(images(1, 3, *size))
    assert calls == [(3, 5), (6, 6)]


def test_a_trained_position_embedding_is_never_cached_and_gets_gradients(calls):
    trunk = make_trunk(vit_weights()).requires_grad_(True)
    for _ in range(2):
        trunk.embed(images(1, 3, 24, 40))[0].square().sum().backward()
    assert len(calls) == 2
    assert trunk.vit.pos_embed.grad.abs().max() > 0


def test_the_cache_follows_newly_loaded_weights():
    trunk, image = frozen_trunk(), images(1, 3, 24, 40)
    before = trunk.embed(image)[0]
    other = make_trunk(vit_weights(seed=9)).requires_grad_(False)
    trunk.load_state_dict(other.state_dict())
    after = trunk.embed(image)[0]
    assert not after.equal(before)
    assert after.equal(other.embed(image)[0])


def test_of_a_frozen_position_embedding_the_16_grids_met_last_are_kept(calls):
    trunk = frozen_trunk()
    sizes = [(8 * n, 8 * (n % 3 + 1)) for n in range(1, 18)]  # 17 grids, most of them not square
    for size in sizes:
        trunk.embed(images(1, 3, *size))
        trunk.embed(images(1, 3, 24, 8))  # the third, met again and again
    assert calls == [(h // 8, w // 8) for h, w in [sizes[0], (24, 8), *sizes[1:2], *sizes[3:]]]
    calls.clear()
    for size in [(24, 8), *sizes[3:], sizes[1]]:
        trunk.embed(images(1, 3, *size))
    assert calls == []
    trunk.embed(images(1, 3, *sizes[0]))  # the one that had to go
    assert len(calls) == 1


def test_grids_of_equal_length_are_not_mixed_up():
    trunk = frozen_trunk()
    for size in ((16, 64), (64, 16), (16, 64), (64, 16)):
        part, grid = position_part(trunk, images(1, 3, *size))
        expected = resized(vit_weights()['pos_embed'], (4, 4), grid)
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('replace', [dict(), dict(assign=True)], ids=['in place', 'assigned'])
def test_the_cache_of_a_copy_follows_the_weights_of_the_copy(replace):
    trunk, image = frozen_trunk(), images(1, 3, 24, 40)
    other = make_trunk(vit_weights(seed=9)).requires_grad_(False)
    before = trunk.embed(image)[0]
    trunk_copy = copy.deepcopy(trunk)
    # Loading counts the version of the copied tensor up to where the original's was.
    for _ in range(trunk.vit.pos_embed._version + 1):
        trunk_copy.load_state_dict(other.state_dict(), **replace)
        assert trunk_copy.requires_grad_(False).embed(image)[0].equal(other.embed(image)[0])
    assert trunk.embed(image)[0].equal(before)


def test_what_inference_mode_cached_can_be_trained_with():
    trunk, image = frozen_trunk(), images(1, 3, 24, 40)
    with torch.inference_mode():
        trunk.embed(image)
    trunk.vit.cls_token.requires_grad_(True)
    trunk.embed(image)[0].square().sum().backward()
    assert trunk.vit.cls_token.grad.abs().max() > 0


def test_the_cache_follows_the_dtype():
    trunk, image = frozen_trunk(), images(1, 3, 24, 40)
    trunk.embed(image)
    assert trunk.to(torch.float64).embed(image.double())[0].dtype == torch.float64
    expected = frozen_trunk().to(torch.float64).embed(image.double())[0]
    assert trunk.embed(image.double())[0].equal(expected)


@pytest.mark.parametrize('tuner', [None, dict(type='hstpeft.FrozenTuner')], ids=['hst', 'frozen'])
def test_a_bfloat16_trunk_holds_its_frozen_tensors_only_and_stays_close(tuner):
    full = build(backbone_config(trunk_config(), tuner)).eval()
    half = build(backbone_config(trunk_config(dtype='bfloat16'), tuner)).eval()
    assert half.trunk.identity == full.trunk.identity
    for name, parameter in half.named_parameters():
        wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == wanted, name
    half.load_state_dict(full.state_dict(), strict=True)
    for a, b in zip(half(images(2, 3, 32, 40)), full(images(2, 3, 32, 40)), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * b.norm()


def test_gradients_through_a_bfloat16_trunk_are_finite_and_close():
    gradients = []
    for dtype in ('float32', 'bfloat16'):
        backbone = build(backbone_config(trunk_config(dtype=dtype))).train()
        sum(x.square().mean() for x in backbone(images(2, 3, 32, 32))).backward()
        trained = [p.grad for p in backbone.parameters() if p.requires_grad]
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in trained)
        gradients.append(torch.cat([g.flatten() for g in trained]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_dropout_and_drop_path_of_the_trunk_follow_train_and_eval():
    config = trunk_config(proj_drop_rate=0.3, drop_path_rate=0.3, attn_drop_rate=0.1)
    plain = build(backbone_config()).eval()
    backbone = build(backbone_config(config))
    image = images(2, 3, 32, 32)
    assert all(a.equal(b) for a, b in zip(backbone.eval()(image), plain(image), strict=True))
    backbone.train()
    plain.train()
    assert not backbone(image)[-1].equal(backbone(image)[-1])
    assert plain(image)[-1].equal(plain(image)[-1])
