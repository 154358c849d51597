"""SA2VP's tuner: counts, initial values, what is frozen, other sizes, what it refuses."""

import json

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.official.common import SWIN, swin_names
from hstpeft.oracle.literal.arc_shapes import arc_swin_shapes
from tests.support.models import backbone_config, build, changed, draw, images, snapshot
from tests.support.models import trunk_config as vit_config
from tests.support.paths import REFERENCE

COUNTS = json.loads((REFERENCE / 'full_size_counts.json').read_text())['sa2vp']
DEPTHS, HEADS = (1, 1, 4, 1), (1, 2, 2, 4)
# Exchange in both directions, and a deep prompt, on a trunk of four blocks.
VIT_TUNER = dict(exchange_indices=(0, 2), deep_prompt_indices=(1, 2))
SWIN_TUNER = dict(exchange_indices=(0, 2))
KINDS = ['vit', 'swin']

each_kind = pytest.mark.parametrize('kind', KINDS)


def swin_config(depths=DEPTHS, **options) -> dict:
    """Config of a tiny Swin with drawn weights."""
    shapes = arc_swin_shapes(8, depths, HEADS[: len(depths)], (16, 16), 2, 2, 1, 1, positions=())
    names = swin_names(depths)
    official = draw({key: shapes[key] for key in names})
    return dict(
        type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224',
        arch_options=dict(
            embed_dim=8, depths=depths, num_heads=HEADS[: len(depths)], window_size=2, img_size=32,
            patch_size=2, **options,
        ),
        weights={own.removeprefix(SWIN): official[key] for key, own in names.items()},
    )  # fmt: skip


def tuner_config(kind: str, **options) -> dict:
    """Config of a tiny tuner."""
    default = VIT_TUNER if kind == 'vit' else SWIN_TUNER
    return dict(type='hstpeft.SA2VPTuner', **{'inner_dims': 4, **default, **options})


def make(kind: str, trunk: dict | None = None, out_type=None, seed=0, **options) -> nn.Module:
    """Build a tiny backbone."""
    trunk = trunk or (vit_config() if kind == 'vit' else swin_config())
    return build(backbone_config(trunk, tuner_config(kind, **options), out_type=out_type), seed)


def make_classifier(kind: str, **options) -> nn.Module:
    """Build a tiny classifier, with the initial values that training starts from."""
    trunk = vit_config() if kind == 'vit' else swin_config()
    return build(
        dict(
            type='ImageClassifier',
            backbone=backbone_config(trunk, tuner_config(kind, **options)),
            head=dict(
                type='hstpeft.TwoBranchClsHead',
                num_classes=5,
                in_channels=32 if kind == 'vit' else 64,
            ),
        ),
        seed=None,
    )


def train(model: nn.Module, steps: int) -> None:
    """Train; the last step's gradients stay."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    samples = [DataSample().set_gt_label(label) for label in (0, 3, 4)]
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.loss(images(3, 3, 32, 32), samples).values()).backward()
        optimizer.step()


def count(trunk: dict, tuner: dict) -> tuple[int, int]:
    """Count the trainable values and all values of a backbone at full size."""
    with torch.device('meta'):
        backbone = MODELS.build(
            dict(
                type='hstpeft.TunedBackbone',
                trunk=trunk,
                tuner=dict(type='hstpeft.SA2VPTuner', **tuner),
            )
        )
    sizes = [(p.numel(), p.requires_grad) for p in backbone.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


@pytest.mark.parametrize('accelerated', [False, True], ids=['plain', 'accelerated'])
@pytest.mark.parametrize('inner_dims', [8, 16, 32, 64])
def test_counts_on_a_vit_b_are_the_official_ones(inner_dims, accelerated):
    version = 'accelerated' if accelerated else 'plain'
    official = COUNTS[f'vit_b16_inter_dim_{inner_dims}'][version]
    options = dict(weight_init='skip')
    trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=options)
    tuner = dict(inner_dims=inner_dims, accelerated=accelerated)
    trainable, total = count(trunk, tuner)
    head = 769 * 100
    assert trainable == official['trainable_without_head']
    assert trainable + head == official['trainable_100_classes']
    # The official total counts the copies of the cross-attention.
    copies = 12 * (4 * (768**2 + 768) + 2 * 768)
    assert total + copies + head == official['total_100_classes']
    untied = count(trunk, dict(**tuner, tie_cross_attention=False))
    assert untied == (trainable, total + copies)


def test_counts_on_a_swin_b_are_the_official_ones():
    official = COUNTS['swin_b_inter_dim_8']
    trunk = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224')
    trainable, total = count(trunk, dict(tie_cross_attention=False))
    head = 1025 * 100
    assert trainable == official['trainable_without_head']
    assert trainable + head == official['trainable_100_classes']
    assert total + head == official['total_100_classes']


@pytest.mark.parametrize(
    'depth, exchange', [(12, (0, 4, 8)), (24, (0, 8, 16)), (7, (0, 2, 4)), (3, (0, 1, 2))]
)
def test_by_default_the_prompt_reads_at_the_first_block_of_each_third(depth, exchange):
    trunk = vit_config(None, depth=depth, weight_init='skip')
    config = backbone_config(trunk, dict(type='hstpeft.SA2VPTuner'))
    with torch.device('meta'):
        tuner = MODELS.build(config).tuner
    assert tuner.exchange == exchange
    assert tuner.deep == exchange[1:]


def test_by_default_the_prompt_of_a_swin_b_reads_as_officially():
    trunk = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224')
    config = backbone_config(trunk, dict(type='hstpeft.SA2VPTuner'))
    with torch.device('meta'):
        tuner = MODELS.build(config).tuner
    assert tuner.exchange == (0, 6, 12)
    assert not tuner.deep


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
@each_kind
def test_all_that_is_trainable_has_a_gradient_by_the_third_step(kind, tied):
    model = make_classifier(kind, tie_cross_attention=tied)
    before = snapshot(model)
    train(model, steps=3)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    empty = {name for name in trainable if not model.get_parameter(name).grad.any()}
    assert not empty
    assert changed(model, before) == trainable
    assert not any('trunk' in name or 'copies' in name for name in trainable)


def test_initial_values_on_a_vit_are_the_papers():
    tuner = make_classifier('vit', inner_dims=16).backbone.tuner
    for prompt in (tuner.prompt, tuner.deep_prompts):
        assert prompt.std().item() == pytest.approx(0.02, rel=0.2)
    assert tuner.deep_scales.std().item() == pytest.approx(0.02, rel=0.5)
    linears = [module for module in tuner.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3 + 2 * 4
    for linear in linears:
        bound = (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert 0 < linear.bias.abs().max() < 1e-5
    for norm in (module for module in tuner.modules() if isinstance(module, nn.LayerNorm)):
        assert (norm.weight == 1).all() and not norm.bias.any() and norm.eps == 1e-6


def test_initial_values_on_a_swin_are_the_papers():
    tuner = make_classifier('swin', inner_dims=16).backbone.tuner
    linears = [module for module in tuner.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 1 + 2 * 4
    for values in (tuner.prompt, *(linear.weight for linear in linears)):
        assert values.std().item() == pytest.approx(0.02, rel=0.25)
    assert not any(linear.bias.any() for linear in linears)


@each_kind
def test_token_parameters_are_the_prompts(kind):
    tuner = make(kind).tuner
    prompts = [tuner.prompt, tuner.deep_prompts] if kind == 'vit' else [tuner.prompt]
    assert [id(p) for p in tuner.token_parameters()] == [id(p) for p in prompts]


@each_kind
def test_untied_copies_start_as_the_trunks_and_belong_to_the_delta(kind):
    tied, untied = make(kind), make(kind, tie_cross_attention=False)
    assert not [name for name, _ in tied.named_parameters() if 'copies' in name]
    copies = {name for name, _ in untied.tuner.named_parameters() if name.startswith('copies.')}
    assert len(copies) == 4 * 6
    assert untied.state_dict().keys() == tied.state_dict().keys() | {f'tuner.{n}' for n in copies}
    first = (untied.trunk.vit.blocks if kind == 'vit' else untied.trunk.swin.layers[2].blocks)[0]
    own = untied.tuner.copies[0]
    for copy, original in (
        (own.norm, first.norm1), (own.qkv, first.attn.qkv), (own.proj, first.attn.proj),
    ):  # fmt: skip
        assert copy.weight.equal(original.weight) and copy.bias.equal(original.bias)
        assert copy.weight is not original.weight
    both = [branches(x, images(2, 3, 32, 32)) for x in (tied, untied)]
    torch.testing.assert_close(both[1], both[0])


def branches(backbone: nn.Module, image: Tensor) -> Tensor:
    """Return [image, prompt] as one tensor (2, B, C)."""
    return torch.stack(list(backbone(image)[-1]))


@each_kind
def test_a_delta_loads_into_another_model_of_the_same_trunk(kind):
    saved, other = (make(kind, seed=seed, tie_cross_attention=False) for seed in (1, 2))
    with torch.no_grad():
        saved.tuner.copies[1].proj.weight += 1
    image = images(2, 3, 32, 32)
    assert not branches(saved, image).equal(branches(other, image))
    other.load_state_dict(saved.state_dict(), strict=True)
    assert branches(saved, image).equal(branches(other, image))


@pytest.mark.parametrize('accelerated', [False, True], ids=['plain', 'accelerated'])
def test_an_image_of_another_size_gets_the_prompts_resized_to_its_grid(accelerated):
    options = dict(accelerated=accelerated)
    backbone = make('vit', **options).double()
    weights = {key: value.detach() for key, value in backbone.trunk.vit.state_dict().items()}
    weights['pos_embed'] = backbone.trunk._position((5, 6))
    larger = make('vit', vit_config(weights=weights, img_size=(40, 48)), **options).double()
    state = {**larger.state_dict(), **dict(backbone.tuner.named_parameters(prefix='tuner'))}
    state['tuner.prompt'] = resized(backbone.tuner.prompt)
    state['tuner.deep_prompts'] = torch.stack([resized(p) for p in backbone.tuner.deep_prompts])
    larger.load_state_dict(state)
    image = images(2, 3, 40, 48).double()
    torch.testing.assert_close(branches(backbone, image), branches(larger, image))
    assert branches(backbone, images(2, 3, 27, 50).double()).isfinite().all()


def resized(prompt: Tensor) -> Tensor:
    """Resize a prompt (1, 1 + 16, R) to a grid of 5 x 6."""
    patches = prompt[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    patches = F.interpolate(patches, (5, 6), mode='bilinear', align_corners=False)
    return torch.cat([prompt[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize('size', [(32, 48), (16, 32), (19, 35)])
def test_a_swin_takes_images_of_other_sizes(size):
    backbone = make('swin')
    image = images(2, 3, *size)
    found = branches(backbone, image)
    found.square().sum().backward()
    assert found.shape == (2, 2, 64)
    assert backbone.tuner.prompt.grad.any()


@each_kind
def test_a_bfloat16_trunk_gives_close_branches_and_float32_gradients(kind):
    plain = make(kind)
    trunk = vit_config(dtype='bfloat16') if kind == 'vit' else dict(swin_config(), dtype='bfloat16')
    half = make(kind, trunk)
    image = images(3, 3, 32, 32)
    expected, got = branches(plain, image), branches(half, image)
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()
    got.square().sum().backward()
    for parameter in half.tuner.own_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@each_kind
def test_automatic_mixed_precision_gives_close_branches_and_finite_gradients(kind):
    backbone = make(kind)
    image = images(3, 3, 32, 32)
    expected = branches(backbone, image)
    with torch.autocast('cpu', torch.bfloat16):
        got = branches(backbone, image)
        got.float().square().sum().backward()
    assert (got - expected).norm() < 0.05 * expected.norm()
    assert all(p.grad.isfinite().all() for p in backbone.tuner.own_parameters())


def test_maps_and_tokens_are_the_image_branch():
    image = images(2, 3, 32, 48)
    with torch.no_grad():
        tokens = make('vit', out_type='raw')(image)[-1]
        featmap = make('vit', out_type='featmap')(image)[-1]
        vectors = make('vit', out_type='cls_token')(image)[-1]
        pooled = make('vit', out_type='avg_featmap')(image)[-1]
    assert tokens.shape == (2, 1 + 24, 32)
    assert featmap.shape == (2, 32, 4, 6)
    assert featmap.equal(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    assert vectors[0].equal(tokens[:, 0])
    assert not vectors[1].equal(vectors[0])
    torch.testing.assert_close(pooled[0], tokens[:, 1:].mean(dim=1))
    assert len(vectors) == len(pooled) == 2


def test_a_swin_gives_the_image_branch_of_its_stages():
    trunk, tuner = swin_config(), tuner_config('swin')
    config = backbone_config(trunk, tuner, out_type='featmap', out_indices=(0, 1, 2, 3))
    maps = build(config)(images(2, 3, 32, 32))
    assert [tuple(x.shape) for x in maps] == [
        (2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2),
    ]  # fmt: skip
    torch.testing.assert_close(
        maps[-1].mean(dim=(2, 3)), branches(make('swin'), images(2, 3, 32, 32))[0]
    )


def prompts_of_one_image_twice(trunk: dict, training: bool) -> Tensor:
    """Return the prompt branch (2, C) of two equal images, which the prompt never reads."""
    kind = 'vit' if 'ViT' in trunk['type'] else 'swin'
    backbone = make(
        kind, trunk, exchange_indices=(), **({'deep_prompt_indices': (1,)} if kind == 'vit' else {})
    )
    with torch.no_grad():
        return branches(backbone.train(training), images(1, 3, 32, 32).expand(2, -1, -1, -1))[1]


@pytest.mark.parametrize(
    'trunk',
    [
        vit_config(pos_drop_rate=0.3),
        dict(vit_config(), mlp_drop_rate=0.3),
        vit_config(drop_path_rate=0.5),
        swin_config(drop_path_rate=0.5),
    ],
    ids=['embedding', 'MLP', 'drop path', 'drop path of a Swin'],
)
def test_with_dropout_in_the_trunk_every_image_has_a_prompt_of_its_own(trunk):
    torch.manual_seed(3)
    first, second = prompts_of_one_image_twice(trunk, training=True)
    assert not first.equal(second)
    first, second = prompts_of_one_image_twice(trunk, training=False)
    assert first.equal(second)


def test_without_dropout_the_prompt_runs_once_a_batch_until_it_reads_an_image():
    rows = []
    backbone = make('vit', exchange_indices=(2,), deep_prompt_indices=(3,)).train()
    for block in backbone.trunk.vit.blocks:
        block.norm1.register_forward_hook(lambda m, args, output: rows.append(len(output)))
    backbone(images(5, 3, 32, 32))
    # Five images and a prompt; behind block 2 five prompts, and one that block 3 adds.
    assert sum(rows) == 3 * (5 + 1) + 5 + 5 + 1


def test_drop_rate_acts_in_training_only():
    image = images(2, 3, 32, 32)
    torch.manual_seed(0)
    backbone = make('vit', drop_rate=0.5)
    trained = [branches(backbone.train(), image) for _ in range(2)]
    assert not trained[0].equal(trained[1])
    torch.testing.assert_close(branches(backbone.eval(), image), branches(make('vit'), image))


@each_kind
def test_what_runs_again_in_the_backward_pass_drops_the_same(kind):
    backbone = make(kind, drop_rate=0.4).double().train()
    image, weight = images(2, 3, 32, 32).double(), backbone.tuner.cross[1].down.weight
    step = 1e-6 * torch.randn_like(weight)

    def value() -> Tensor:
        torch.manual_seed(5)
        return branches(backbone, image).square().sum()

    value().backward()
    with torch.no_grad():
        weight += step
        above = value()
        weight -= 2 * step
        below = value()
    torch.testing.assert_close((above - below) / 2, (weight.grad * step).sum(), rtol=1e-4, atol=0)


@each_kind
def test_training_goes_on_after_inference_mode(kind):
    backbone = make(kind)
    image = images(2, 3, 48, 32)
    with torch.inference_mode():
        branches(backbone.eval(), image)
    branches(backbone.train(), image).sum().backward()
    assert backbone.tuner.prompt.grad.any()


def test_it_cannot_be_merged():
    backbone = make('vit')
    with pytest.raises(UserError, match=r'SA2VPTuner cannot be merged.*export'):
        backbone.tuner.merge(backbone.trunk)


@pytest.mark.parametrize(
    'kind, options, message',
    [
        ('vit', dict(inner_dims=0), 'tuner.inner_dims 0 must be at least 1'),
        ('vit', dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
        ('vit', dict(drop_rate=-0.1), 'tuner.drop_rate -0.1 must be'),
        (
            'vit', dict(exchange_indices=(0, 4)),
            r'tuner.exchange_indices \(0, 4\) are out of range: there are 4 blocks, 0 to 3',
        ),
        ('vit', dict(exchange_indices=(-1, 2)), r'tuner.exchange_indices \(-1, 2\) .*0 to 3'),
        ('vit', dict(exchange_indices=(2, 0)), r'exchange_indices \(2, 0\) .*in rising order'),
        ('vit', dict(exchange_indices=(1, 1)), r'exchange_indices \(1, 1\) .*different numbers'),
        ('vit', dict(deep_prompt_indices=(4,)), r'deep_prompt_indices \(4,\) .*0 to 3'),
        ('vit', dict(deep_prompt_indices=(3, 1)), r'deep_prompt_indices \(3, 1\) .*rising order'),
        ('swin', dict(exchange_indices=(0, 4)), 'there are 4 blocks, 0 to 3'),
        ('swin', dict(accelerated=True), 'tuner.accelerated True does not exist for a Swin'),
        (
            'swin', dict(deep_prompt_indices=(1,)),
            r'tuner.deep_prompt_indices \(1,\) does not exist for a Swin',
        ),
        ('vit', dict(inner_dim=8), "no option 'inner_dim': did you mean 'inner_dims'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_option_is_refused_with_a_remedy(kind, options, message):
    with pytest.raises(UserError, match=message):
        make(kind, **options)


def test_a_swin_of_two_stages_is_refused():
    with pytest.raises(
        UserError, match='third stage, this Swin has only 2: use a Swin of at least'
    ):
        make('swin', swin_config(depths=(1, 2)))


def test_a_hvt_is_refused():
    options = dict(embed_dim=32, depth=2, num_heads=2, img_size=32, patch_size=8)
    trunk = dict(type='hstpeft.HVTTrunk', arch='hvt_ti_1', arch_options=options)
    with pytest.raises(
        UserError, match=r'not defined for a HVTTrunk: .*\(maps\); use hstpeft.SwinTrunk or hst'
    ):
        make('vit', trunk)
