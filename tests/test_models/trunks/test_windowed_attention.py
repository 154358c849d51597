"""Windows of a ViT: equal to dense attention with a mask, and linear in the number of patches."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hstpeft.models.trunks.sequence as sequence_module
from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
from tests.support.models import (
    ARCH,
    FROZEN,
    VIT,
    backbone_config,
    build,
    hst_config,
    images,
    trunk_config,
)

TUNERS = {
    'hst': hst_config(num_meta_tokens=2),
    'arc': dict(type='hstpeft.ARCTuner', adapter_dims=4),
    'full': dict(type='hstpeft.FullTuner'),
    'memory-prop': dict(type='hstpeft.MemoryTokensTuner', num_memory_tokens=2),
    'memory-standard': dict(type='hstpeft.MemoryTokensTuner', mode='standard'),
    'vpt': dict(type='hstpeft.VPTTuner', num_tokens=2),
    'vpt-shallow': dict(type='hstpeft.VPTTuner', num_tokens=2, deep=False),
    'adaptformer-prompts': dict(
        type='hstpeft.AdaptFormerTuner', num_prompt_tokens=2, drop_rate=0.0
    ),
}
# Pixels; a patch is 8 x 8 and a window 3 x 3: grids of 5 x 7, 2 x 8 and 6 x 3.
SIZES = [(40, 56), (9, 61), (48, 24)]


def windowed(tuner: dict, trunk: dict | None = None, **options):
    config = {**(trunk or trunk_config()), **options}
    parts = {} if tuner['type'] == 'hstpeft.HSTTuner' else {'out_type': 'raw'}
    return build(backbone_config(config, tuner, **parts)).double()


def window_mask(grid, first_patch, length, window_size):
    """Who may read whom, (L, L): written down from the definition, one pair at a time."""

    def window(token):
        patch = token - first_patch
        if not 0 <= patch < grid[0] * grid[1]:
            return None
        row, column = divmod(patch, grid[1])
        return row // window_size, column // window_size

    places = [window(token) for token in range(length)]
    return torch.tensor([[a is None or b is None or a == b for b in places] for a in places])


def masked(attn, q, k, v, grid, first_patch, window_size):
    """Dense attention with an explicit mask: the oracle."""
    mask = window_mask(grid, first_patch, q.shape[2], window_size)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attn.scale)


def results(backbone, image):
    """Outputs and the gradients of all that is trained and of the image."""
    image = image.clone().requires_grad_()
    outputs = backbone(image)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs
    )
    free = [p for p in backbone.parameters() if p.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, [image, *free])]


def assert_equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('tuner', TUNERS.values(), ids=TUNERS)
def test_windows_equal_dense_attention_with_a_mask(tuner, size, monkeypatch):
    image = images(2, 3, *size).double()
    backbone = windowed(tuner, window_size=3, global_attn_indices=(1,))
    got = results(backbone, image)
    monkeypatch.setattr(sequence_module, 'mix_in_windows', masked)
    assert_equal(got, results(backbone, image))
    # The last block is windowed, so it matters which blocks are.
    different = results(windowed(tuner), image)
    assert (got[0] - different[0]).abs().max() > 1e-4


@pytest.mark.parametrize('options', [dict(reg_tokens=3), dict(class_token=False, global_pool='')])
def test_registers_and_a_missing_class_token_are_counted(options, monkeypatch):
    trunk = trunk_config(**options)
    full = dict(type='hstpeft.FullTuner')
    backbone = windowed(full, trunk, window_size=2)
    got = results(backbone, images(2, 3, 40, 24).double())
    monkeypatch.setattr(sequence_module, 'mix_in_windows', masked)
    assert_equal(got, results(backbone, images(2, 3, 40, 24).double()))


@pytest.mark.parametrize('tuner', [TUNERS['hst'], TUNERS['memory-prop']], ids=['hst', 'memory'])
def test_a_window_as_large_as_the_grid_is_global_attention(tuner):
    image = images(2, 3, 40, 24).double()
    assert_equal(results(windowed(tuner, window_size=5), image), results(windowed(tuner), image))


def test_blocks_that_are_all_global_are_no_windows_at_all():
    image, hst = images(1, 3, 40, 24).double(), TUNERS['hst']
    every = windowed(hst, window_size=1, global_attn_indices=range(4))
    assert all(a.equal(b) for a, b in zip(every(image), windowed(hst)(image), strict=True))


def test_windows_under_activation_checkpointing_give_the_same():
    image, trunk = images(2, 3, 40, 56).double(), {**trunk_config(), 'window_size': 3}
    plain, checkpointed = (
        build(backbone_config(trunk, TUNERS['hst'], with_cp=with_cp)).double()
        for with_cp in (False, True)
    )
    assert_equal(results(checkpointed, image), results(plain, image))


def attention_flops(trunk: ViTTrunk, side: int) -> int:
    """FLOPs of the products of queries, keys and values in all blocks."""
    tokens, grid = trunk.embed(images(1, 3, side, side))
    places = build(backbone_config(tuner=FROZEN)).tuner
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        trunk.run(tokens, places, (3,), grid)
    return counter.get_flop_counts()['Global'][torch.ops.aten.bmm]


def test_the_cost_is_linear_in_the_number_of_patches():
    windows, dense = ViTTrunk(ARCH, VIT, window_size=4), ViTTrunk(ARCH, VIT)
    assert attention_flops(windows, 256) / attention_flops(windows, 128) < 4.1
    assert attention_flops(dense, 256) / attention_flops(dense, 128) > 15


def test_nothing_as_large_as_patches_times_patches_is_kept():
    trunk, largest = ViTTrunk(ARCH, VIT, window_size=4), 0

    def measure(x):
        nonlocal largest
        largest = max(largest, x.numel())
        return x

    tokens, grid = trunk.embed(images(1, 3, 256, 256))
    places = build(backbone_config(tuner=FROZEN)).tuner
    hooks = torch.autograd.graph.saved_tensors_hooks(measure, lambda x: x)
    with sdpa_kernel(SDPBackend.MATH), hooks:
        trunk.run(tokens, places, (3,), grid)
    assert 0 < largest < (32 * 32) ** 2 / 4


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(window_size=-1), 'trunk.window_size -1'),
        (dict(global_attn_indices=(1,)), r'global_attn_indices \(1,\).*window_size'),
        (dict(window_size=2, global_attn_indices=(1, 4)), r'\(1, 4\) are out of range.*4 blocks'),
        (dict(window_size=2, global_attn_indices=(-1,)), r'\(-1,\) are out of range'),
    ],
)
def test_wrong_windows_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        ViTTrunk(ARCH, VIT, **options)


def test_sa2vp_refuses_windows_and_an_hvt_has_none():
    trunk = {**trunk_config(), 'window_size': 2}
    with pytest.raises(
        UserError, match=r'SA2VPTuner .* windows of 2 .*\(whole_image\); leave trunk.window_size'
    ):
        build(backbone_config(trunk, dict(type='hstpeft.SA2VPTuner')), seed=None)
    hvt = dict(type='hstpeft.HVTTrunk', arch='hvt_ti_1', window_size=2)
    with pytest.raises(UserError, match="no option 'window_size'"):
        build(backbone_config(hvt, FROZEN), seed=None)


def test_a_delta_of_windows_does_not_load_without_them_or_with_others():
    windows = dict(window_size=3, global_attn_indices=(1, 3))
    trained = windowed(hst_config(), **windows)
    windowed(hst_config(), **windows).load_state_dict(trained.state_dict())
    for other in ({}, dict(windows, window_size=2), dict(windows, global_attn_indices=(3,))):
        with pytest.raises(UserError, match=r'tuner HSTTuner, windows of 3 but in \(1, 3\), the'):
            windowed(hst_config(), **other).load_state_dict(trained.state_dict())
