"""The places of a block: called in the documented order, acting where they are said to."""

import inspect
import itertools

import pytest
import torch
from torch import Tensor, nn

from hstpeft.models import SwinTrunk
from hstpeft.models.trunks import PLACES, Places
from tests.support.families import FAMILIES, HVT, VIT, build_trunk
from tests.support.models import images

ORDER = (
    'before_block', 'before_attention', 'after_attention', 'beside_attention', 'before_mlp_norm',
    'before_mlp', 'after_mlp', 'beside_mlp', 'after_block',
)  # fmt: skip
TRUNKS = {
    'vit': ('vit', {}),
    'vit with layer scale': ('vit', dict(arch_options=dict(init_values=0.5))),
    'vit without class token': ('vit', dict(arch_options=dict(class_token=False, global_pool='avg'))),
    'swin': ('swin', {}),
    'hvt': ('hvt', {}),
}  # fmt: skip
# What a change adds, or takes a share of: small beside the tokens, large beside rounding.
SHIFT, SHARE = 0.1, 0.3


def trunk_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    family, options = TRUNKS[name]
    return build_trunk(family, **options).double()


def run(trunk: nn.Module, places: Places, image: Tensor) -> dict[int, Tensor]:
    tokens, grid = trunk.embed(image)
    return trunk.run(tokens, places, range(len(trunk.output_strides)), grid)


class Recording(Places):
    """Notes which places are called, with which block and shapes."""

    def __init__(self, num_front_tokens: int = 0) -> None:
        self.calls, self.num_front_tokens = [], num_front_tokens

    def __getattribute__(self, name):
        own = super().__getattribute__(name)
        if name != 'after_embedding' and name not in ORDER:
            return own

        def place(*arguments):
            shapes = [tuple(a.shape) for a in arguments if isinstance(a, Tensor)]
            index = arguments[0] if len(arguments) > len(shapes) else None
            self.calls.append((name, index, *shapes))
            return own(*arguments)

        return place


def test_every_place_of_the_class_is_named_and_in_the_order():
    assert ('after_embedding', *ORDER) == PLACES
    own = {name for name, _ in inspect.getmembers(Places, inspect.isfunction)}
    assert own == {'at', *PLACES}


def shapes_of(trunk: nn.Module) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What enters and leaves each block, for two images of 32 x 32 pixels."""
    if isinstance(trunk, SwinTrunk):
        sides = [16, 8, 8, 4, 4, 2]
        own = [(2, n, n, dims) for n, dims in zip(sides, trunk.block_dims, strict=True)]
        return [(shape, shape) for shape in own]
    lengths = [trunk.num_prefix_tokens + 16] * 5
    if hasattr(trunk, 'sequence_lengths'):
        lengths = [16, *trunk.sequence_lengths]
    return [((2, a, 32), (2, b, 32)) for a, b in itertools.pairwise(lengths)]


@pytest.mark.parametrize('name', TRUNKS)
def test_each_place_is_called_once_a_block_in_order_with_the_shapes_of_the_tokens(name):
    trunk, places = trunk_of(name), Recording()
    run(trunk, places, images(2, 3, 32, 32).double())
    shapes = shapes_of(trunk)
    expected = [('after_embedding', None, shapes[0][0])]
    for index, (entry, end) in enumerate(shapes):
        for place in ORDER:
            given = [end if place == 'after_block' else entry]
            if place in ('after_attention', 'after_mlp'):
                given *= 2  # the branch, and what it was made from
            expected.append((place, index, *given))
    assert places.calls == expected


def test_front_tokens_make_the_tokens_of_a_swin_one_sequence_at_every_place():
    class Front(Recording):
        def after_embedding(self, tokens):
            return torch.cat([tokens[:, :2], tokens], dim=1)

    trunk, places = trunk_of('swin'), Front(num_front_tokens=2)
    run(trunk, places, images(1, 3, 32, 64).double())
    cells = [512, 128, 128, 32, 32, 8]
    assert places.calls[0] == ('after_embedding', None, (1, 512, 16))
    for _, index, *shapes in places.calls[1:]:
        assert set(shapes) == {(1, 2 + cells[index], trunk.block_dims[index])}


@pytest.mark.parametrize('name', TRUNKS)
@pytest.mark.parametrize('size', [32, 48])
def test_places_alone_change_nothing_of_timm_bit_by_bit(name, size):
    trunk = trunk_of(name)
    if name == 'hvt':  # timm has no pooling
        options = dict(pool_width=0, weights=None, arch_options=dict(img_size=size))
        trunk = build_trunk('hvt', **options).double()
    elif name == 'swin':
        trunk.swin.set_input_size((size, size))
    image = images(2, 3, size, size).double()
    got = run(trunk, Places(), image)[len(trunk.output_strides) - 1]
    assert trunk.final_norm(got).equal(trunk.net.forward_features(image))


class Changing(Places):
    """Changes one place of block 1."""

    def __init__(self, chosen: str) -> None:
        self.chosen = chosen

    def __getattribute__(self, name):
        if name not in ORDER or name != self.chosen:
            return super().__getattribute__(name)
        return lambda index, *tensors: change(*tensors) if index == 1 else tensors[0]


def change(tokens: Tensor, normed: Tensor | None = None) -> Tensor:
    """Do what can be told from what any other place does."""
    return SHARE * (0 if normed is None else normed) + (1 + SHARE) * tokens + SHIFT


def by_hand(block: nn.Module, x: Tensor, attention, chosen: str | None) -> Tensor:
    """Compute the block that the docstring of `Places` writes down."""

    def at(place, *tensors):
        return change(*tensors) if place == chosen else tensors[0]

    scales = [getattr(block, name, nn.Identity()) for name in ('ls1', 'ls2')]
    x = at('before_block', x)
    normed = at('before_attention', block.norm1(x))
    branch = at('after_attention', scales[0](attention(normed)), normed)
    x = at('beside_attention', x) + branch
    x = at('before_mlp_norm', x)
    normed = at('before_mlp', block.norm2(x))
    branch = at('after_mlp', scales[1](block.mlp(normed)), normed)
    return at('beside_mlp', x) + branch


def all_by_hand(trunk: nn.Module, image: Tensor, chosen: str) -> list[Tensor]:
    """Compute every output with block 1 changed."""
    x, outputs, index = trunk.embed(image)[0], [], 0
    is_swin = isinstance(trunk, SwinTrunk)
    stages = trunk.stages() if is_swin else [(nn.Identity(), list(trunk.vit.blocks))]
    for merge, blocks in stages:
        x = merge(x)
        for block in blocks:
            attention = block._attn if is_swin else block.attn
            x = by_hand(block, x, attention, chosen if index == 1 else None)
            if index in getattr(trunk, 'pool_indices', ()):
                x = torch.max_pool1d(x.transpose(1, 2), 3, 2).transpose(1, 2) + block.pos_embed
            if (chosen, index) == ('after_block', 1):
                x = change(x)
            outputs += [] if is_swin else [x]
            index += 1
        outputs += [x] if is_swin else []
    return outputs


@pytest.mark.parametrize('place', ORDER)
@pytest.mark.parametrize('name', TRUNKS)
def test_what_a_place_changes_acts_where_the_docstring_says(name, place):
    trunk, image = trunk_of(name), images(2, 3, 32, 32).double()
    got, plain = run(trunk, Changing(place), image), run(trunk, Places(), image)
    for index, expected in enumerate(all_by_hand(trunk, image, place)):
        torch.testing.assert_close(got[index], expected, rtol=0, atol=1e-10)
    assert (got[1] - plain[1]).abs().max() > 1e-4
    assert got[0].equal(plain[0])


@pytest.mark.parametrize('family', FAMILIES)
def test_what_is_changed_behind_the_embedding_is_what_the_first_block_gets(family):
    class Embedding(Places):
        def after_embedding(self, tokens):
            return change(tokens)

    trunk, image = build_trunk(family), images(2, 3, 32, 32)
    tokens, grid = trunk.embed(image)
    got = trunk.run(tokens, Embedding(), (0,), grid)[0]
    assert got.equal(trunk.run(change(tokens), Places(), (0,), grid)[0])


def test_the_places_of_the_last_block_that_runs_are_the_last():
    for family, options in (('vit', VIT), ('hvt', HVT)):
        trunk, places = build_trunk(family), Recording()
        tokens, grid = trunk.embed(images(1, 3, 32, 32))
        trunk.run(tokens, places, (1,), grid)
        assert places.calls[-1][:2] == ('after_block', 1) and options['depth'] > 2
