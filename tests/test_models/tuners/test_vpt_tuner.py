"""VPT's parts: initial values, where the prompts stand and what reads them, wrong options."""

import pytest
import torch

from hstpeft.errors import UserError
from hstpeft.models import VPTTuner
from hstpeft.models.trunks.front_tokens import attend_with_front
from tests.support.families import build_trunk, shake, tuned
from tests.support.models import images

VPT = dict(type='hstpeft.VPTTuner', num_tokens=3)
SHALLOW = {**VPT, 'deep': False}
FORMS = {'deep': VPT, 'shallow': SHALLOW, 'projected': {**VPT, 'prompt_dims': 6}}


@pytest.mark.parametrize('family', ['vit', 'swin'])
@pytest.mark.parametrize('deep', [True, False])
def test_prompts_start_uniform_with_a_bound_of_patch_and_width(family, deep):
    backbone = tuned(family, {**VPT, 'num_tokens': 50, 'deep': deep})
    prompts, patch = backbone.tuner.prompts, 8 if family == 'vit' else 2
    assert [p.shape[-1] for p in prompts] == list(backbone.trunk.block_dims[: None if deep else 1])
    for prompt in prompts:
        bound = (6 / (3 * patch**2 + prompt.shape[-1])) ** 0.5
        assert 0.97 * bound < prompt.abs().max() <= bound
        assert abs(prompt.std() - bound / 3**0.5) < 0.1 * bound


def test_projected_prompts_start_with_a_bound_of_their_own_width_and_a_kaiming_projection():
    tuner = tuned('vit', {**VPT, 'num_tokens': 50, 'prompt_dims': 40}).tuner
    assert all(p.shape == (1, 50, 40) for p in tuner.prompts)
    assert max(p.abs().max() for p in tuner.prompts) <= (6 / (3 * 64 + 40)) ** 0.5
    deviation = (2 / 32) ** 0.5  # fan out: the trunk's width
    assert abs(tuner.proj.weight.std() - deviation) < 0.1 * deviation
    assert tuner.proj.bias.abs().max() <= 40**-0.5
    assert len([p for p in tuner.parameters() if p is tuner.proj.weight]) == 1


def entries(backbone, image) -> list[torch.Tensor]:
    """Return what the first norm of every block reads, and run the blocks."""
    seen = []
    for index in range(backbone.trunk.num_layers):
        backbone.trunk.layer(index, 'norm1').register_forward_hook(
            lambda m, args, out: seen.append(args[0].detach())
        )
    backbone(image)
    return seen


@pytest.mark.parametrize('form', FORMS)
def test_prompts_stand_between_class_token_and_patches(form):
    backbone, image = shake(tuned('vit', FORMS[form])), images(2, 3, 32, 32)
    seen, tuner = entries(backbone, image), backbone.tuner
    embedded = backbone.trunk.embed(image)[0]
    assert seen[0][:, :1].equal(embedded[:, :1]) and seen[0][:, 4:].equal(embedded[:, 1:])
    assert [x.shape[1] for x in seen] == [1 + 3 + 16] * 4
    for index, tokens in enumerate(seen):
        own = tuner.prompts[index] if form != 'shallow' or index == 0 else None
        if own is None:  # what became of the first ones: no longer the same for every image
            assert not tokens[0, 1:4].equal(tokens[1, 1:4])
        else:
            assert tokens[:, 1:4].equal(tuner.proj(own).expand(2, -1, -1))


@pytest.mark.parametrize('form', ['deep', 'shallow'])
def test_in_a_swin_prompts_stand_before_the_patches_in_the_width_of_the_stage(form):
    backbone, image = shake(tuned('swin', FORMS[form])), images(2, 3, 32, 32)
    seen, trunk = entries(backbone, image), backbone.trunk
    embedded = trunk.embed(image)[0].flatten(1, 2)
    assert seen[0][:, 3:].equal(embedded)
    cells = [256, 64, 64, 16, 16, 4]
    assert [tuple(x.shape[1:]) for x in seen] == [
        (3 + n, dims) for n, dims in zip(cells, trunk.block_dims, strict=True)
    ]
    for tokens, prompt in zip(seen, backbone.tuner.prompts, strict=form == 'deep'):
        assert tokens[:, :3].equal(prompt.expand(2, -1, -1))


@pytest.mark.parametrize('form', ['deep', 'shallow'])
def test_in_a_swin_the_images_of_a_batch_are_apart(form):
    """Unlike in the official code, whose windows read prompts of other images."""
    backbone, image = shake(tuned('swin', FORMS[form])), images(3, 3, 32, 48)
    alone = torch.cat([backbone(x[None])[0] for x in image])
    torch.testing.assert_close(backbone(image)[0], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize('form', ['deep', 'shallow'])
@pytest.mark.parametrize('family', ['vit', 'swin'])
def test_maps_and_tokens_leave_the_prompts_out_and_the_average_includes_them(family, form):
    backbones = {
        out_type: shake(tuned(family, FORMS[form], out_type=out_type, out_indices=(1, 3)))
        for out_type in ('raw', 'featmap', 'avg_featmap')
    }
    image = images(2, 3, 32, 48)
    outputs = {out_type: backbone(image) for out_type, backbone in backbones.items()}
    backbone = backbones['raw']
    tokens, grid = backbone.trunk.embed(image)
    taps = backbone.tuner.run(backbone.trunk, tokens, grid, (1, 3))
    start = backbone.trunk.num_prefix_tokens
    for place, index in enumerate((1, 3)):
        own = backbone.trunk.final_norm(taps[index]) if index == 3 else taps[index]
        cells = backbone.trunk.output_grid(index, grid)
        assert own.shape[1] == start + 3 + cells[0] * cells[1]
        patches = own[:, start + 3 :].unflatten(1, cells)
        assert outputs['featmap'][place].equal(patches.permute(0, 3, 1, 2))
        plain = outputs['raw'][place]
        assert plain.equal(patches if family == 'swin' else torch.cat(
            [own[:, :start], own[:, start + 3 :]], dim=1
        ))  # fmt: skip
        torch.testing.assert_close(outputs['avg_featmap'][place], own[:, start:].mean(dim=1))
        assert not outputs['avg_featmap'][place].allclose(patches.mean(dim=(1, 2)), atol=1e-3)


def test_register_tokens_stay_before_the_prompts():
    registers = dict(arch_options=dict(reg_tokens=2))
    backbone = shake(tuned('vit', VPT, trunk=registers))
    seen = entries(backbone, images(2, 3, 32, 32))
    assert seen[0].shape[1] == 1 + 2 + 3 + 16
    assert seen[2][:, 3:6].equal(backbone.tuner.prompts[2].expand(2, -1, -1))


def test_one_projection_serves_all_prompts():
    backbone = tuned('vit', {**VPT, 'prompt_dims': 6})
    backbone(images(2, 3, 32, 32))[0].sum().backward()
    names = [name for name, _ in backbone.tuner.named_parameters()]
    assert names == [*(f'prompts.{i}' for i in range(4)), 'proj.weight', 'proj.bias']
    assert backbone.tuner.proj.bias.grad.any()


def test_dropout_of_the_prompts_acts_in_training_only():
    backbone = shake(tuned('vit', {**VPT, 'drop_rate': 0.5}))
    still, image = shake(tuned('vit', VPT)), images(2, 3, 32, 32)
    assert backbone(image)[0].equal(still(image)[0])
    assert not backbone.train()(image)[0].equal(still(image)[0])


@pytest.mark.parametrize('size', [(32, 32), (45, 70), (16, 32)])
@pytest.mark.parametrize('family', ['vit', 'swin'])
def test_other_sizes_of_images_pass(family, size):
    backbone = shake(tuned(family, VPT, out_type='featmap'))
    stride = 8 if family == 'vit' else 16
    cells = tuple(-(-n // stride) for n in size)
    assert backbone(images(2, 3, *size))[0].shape[-2:] == cells


def test_without_prompts_to_read_a_swin_s_windows_are_timm_s():
    """The one attention in windows that is not timm's own, against timm's."""
    trunk, image = build_trunk('swin'), images(2, 3, 32, 48)
    _, grid = trunk.embed(image)
    for index, stage in ((0, 0), (1, 1), (2, 1)):  # the last of them shifts its windows
        cells = trunk.output_grid(stage, grid)
        block = trunk.block(index)
        normed = torch.randn(2, *cells, block.dim)
        got = attend_with_front(block, normed.flatten(1, 2), cells, 0)
        torch.testing.assert_close(got, block._attn(normed).flatten(1, 2), rtol=0, atol=1e-5)
    assert any(trunk.block(2).shift_size)


def test_a_projection_is_not_defined_in_a_swin():
    with pytest.raises(UserError, match=r'tuner.prompt_dims 6 does not exist for a Swin'):
        tuned('swin', {**VPT, 'prompt_dims': 6})


def test_it_cannot_be_merged_and_the_message_says_what_to_do():
    with pytest.raises(UserError, match=r'VPTTuner cannot be merged .*export'):
        tuned('vit', VPT).merge_tuner()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(num_tokens=0), 'tuner.num_tokens 0 must be at least 1'),
        (dict(prompt_dims=0), 'tuner.prompt_dims 0 must be at least 1'),
        (dict(prompt_dims=-1), 'tuner.prompt_dims -1 must be at least 1'),
        (dict(drop_rate=-0.1), 'tuner.drop_rate -0.1 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        VPTTuner(**options)
    assert words in str(info.value)


def test_the_optimiser_is_told_which_parameters_are_tokens():
    tuner = VPTTuner(num_tokens=2, prompt_dims=4)
    tuner.attach(build_trunk('vit'))
    assert {id(p) for p in tuner.token_parameters()} == {id(p) for p in tuner.prompts}
