"""tools/analysis/get_flops.py against closed forms, at sizes that are not square."""

import itertools
import json
import math

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.support import made_dense
from tests.support.arc_pair import SWIN_ARCH
from tools.analysis.get_flops import Count, count_model, main

WIDTH, DEPTH, PATCH, CLASSES = 32, 4, 8, 5
TINY = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=2, img_size=32, patch_size=PATCH)
SWIN = dict(
    embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=2, img_size=64,
)  # fmt: skip
SHAPE, GRID = (40, 64), (5, 8)
FROZEN = dict(type='hstpeft.FrozenTuner')
HST = dict(type='hstpeft.HSTTuner', side_dims=[8, 8, 16, 16], side_heads=[2, 2, 4, 4])


def vit_macs(
    grid: tuple[int, int], width: int, depth: int, patch: int, extra_tokens: int = 1
) -> int:
    """Blocks: 12 N d^2 + 2 N^2 d each, with all tokens; patches: a convolution."""
    patches = grid[0] * grid[1]
    n = patches + extra_tokens
    blocks = depth * (12 * n * width**2 + 2 * n**2 * width)
    return blocks + patches * 3 * patch**2 * width


def classifier(tuner: dict, arch: str = 'vit_tiny_patch16_224', **trunk) -> Config:
    """A classifier whose weights do not exist: they must not be looked for."""
    init_default_scope('mmpretrain')
    trunk = dict(
        arch=arch,
        weights='/nowhere.npz',
        **{'type': 'hstpeft.ViTTrunk', 'arch_options': TINY, **trunk},
    )
    backbone = dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner)
    width = tuner['side_dims'][-1] if 'side_dims' in tuner else WIDTH
    model = dict(type='ImageClassifier', backbone=backbone)
    if 'side_dims' in tuner:
        model['neck'] = dict(type='hstpeft.PooledNorm', in_channels=width)
    model['head'] = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width)
    return Config(dict(default_scope='mmpretrain', model=model))


def test_a_vit():
    count = count_model(classifier(FROZEN), SHAPE)
    trunk = vit_macs(GRID, WIDTH, DEPTH, PATCH)
    assert count == Count(SHAPE, dict(trunk=trunk, tuner=0, head=WIDTH * CLASSES), [])


def test_the_published_number_of_a_vit_b16():
    cfg = classifier(FROZEN, 'vit_base_patch16_224', arch_options={})
    cfg.model.head.update(num_classes=1000, in_channels=768)
    count = count_model(cfg)
    assert count.shape == (224, 224)
    total = sum(count.parts.values())
    assert total == vit_macs((14, 14), 768, 12, 16) + 768 * 1000
    assert f'{total / 1e9:.3f}' == '17.564'


def test_a_vit_with_windows():
    """Blocks 0 and 2 have windows of 3 x 3 patches, smaller ones at the edges."""
    cfg = classifier(FROZEN, window_size=3, global_attn_indices=[1, 3])
    windows = [h * w for h, w in itertools.product((3, 2), (3, 3, 2))]
    assert sum(windows) == math.prod(GRID)
    n = math.prod(GRID) + 1
    pairs = n + sum(patches * (patches + 1) for patches in windows)
    saved = 2 * 2 * WIDTH * (n**2 - pairs)
    parts = count_model(cfg, SHAPE).parts
    assert parts['trunk'] == vit_macs(GRID, WIDTH, DEPTH, PATCH) - saved


def test_an_adapter():
    """ARC: down and up with `adapter_dims` in front of attention and MLP of every block."""
    parts = count_model(classifier(dict(type='hstpeft.ARCTuner', adapter_dims=4)), SHAPE).parts
    assert parts['trunk'] == vit_macs(GRID, WIDTH, DEPTH, PATCH)
    n = math.prod(GRID) + 1
    assert parts['tuner'] == DEPTH * 2 * (2 * n * WIDTH * 4)


def test_hst_is_more_than_its_meta_tokens_in_the_trunk():
    parts = count_model(classifier(HST), SHAPE).parts
    bare = vit_macs(GRID, WIDTH, DEPTH, PATCH)
    assert parts['trunk'] == bare
    in_trunk = vit_macs(GRID, WIDTH, DEPTH, PATCH, extra_tokens=2) - bare
    # Stem: three convolutions at a half and ones at a quarter and below: more than the first alone.
    assert parts['tuner'] > in_trunk + math.prod(SHAPE) // 4 * 27 * 8


def test_the_trunk_counts_up_to_the_last_tap_only():
    cfg = classifier(dict(HST, side_depths=[1] * 4, tap_indices=[0, 0, 1, 1]))
    assert count_model(cfg, SHAPE).parts['trunk'] == vit_macs(GRID, WIDTH, 2, PATCH)


def test_the_norms_of_a_swins_maps_cost_nothing():
    cfg = classifier(FROZEN, SWIN_ARCH, type='hstpeft.SwinTrunk', arch_options=SWIN)
    cfg.model.backbone.update(out_type='featmap', out_indices=[0, 1, 2, 3])
    del cfg.model['head']
    plain = count_model(cfg, (64, 64))
    assert plain.parts['trunk'] > 0
    cfg.model.backbone.out_norm = True
    assert count_model(cfg, (64, 64)) == plain


def cells(height: int, width: int) -> list[int]:
    """Cells of the four maps."""
    return [math.ceil(height / s) * math.ceil(width / s) for s in (4, 8, 16, 32)]


def fpn_macs(height: int, width: int) -> int:
    """A 1 x 1 and a 3 x 3 convolution to 8 channels a map."""
    inputs = zip(cells(height, width), (8, 8, 16, 16), strict=True)
    return sum(n * (dims * 8 + 9 * 8 * 8) for n, dims in inputs)


def dense_config(tmp_path, leaf: str) -> str:
    return str(made_dense.make_task(tmp_path, leaf, checkpoint=False).config)


def test_segmentation(tmp_path, capsys):
    out = tmp_path / 'macs.json'
    flags = ['--shape', '96', '160', '--out', str(out)]
    count = main([dense_config(tmp_path, made_dense.SEG), *flags])
    # A convolution a map at stride 4, one at 8, two at 16, three at 32; then 2 classes.
    quarter, eighth, sixteenth, thirty_second = cells(96, 160)
    head = 9 * 64 * (quarter + eighth + (sixteenth + eighth) + (thirty_second + sixteenth + eighth))
    assert count.parts['decode_head'] == head + quarter * 8 * 2
    assert count.parts['neck'] == fpn_macs(96, 160)
    assert count.parts['trunk'] == vit_macs((6, 10), 32, 4, 16)
    assert count.missing == ['auxiliary_head']
    printed = ' '.join(capsys.readouterr().out.split())
    assert '96 x 160 pixels' in printed
    assert '1 MAC = 1 multiplication with its addition = 2 FLOPs' in printed
    assert 'not counted: auxiliary_head' in printed
    written = json.loads(out.read_text())
    assert (written['unit'], written['total']) == ('MACs', sum(count.parts.values()))
    assert written['parts'] == count.parts
    neck = 8 * (8 + 8 + 16 + 16) + 4 * 9 * 64 + 8 * 8
    assert dict(owner='neck', trainable=neck, all=neck) in written['parameters']


def test_detection(tmp_path, capsys):
    pytest.importorskip('mmcv._ext', reason='mmdet needs the compiled operators of mmcv')
    count = main([dense_config(tmp_path, made_dense.DET), '--shape', '90', '150'])
    assert count.shape == (96, 160), 'padded as in a batch'
    # The fifth map is 2 x 3 cells; an anchor a cell.
    assert count.parts['rpn_head'] == (sum(cells(96, 160)) + 6) * (9 * 64 + 8 * (1 + 4))
    assert count.parts['neck'] == fpn_macs(96, 160)
    assert count.parts['bbox_head (20 proposals)'] == 20 * (8 * 49 * 16 + 16 * 16 + 16 * (2 + 4))
    # A 3 x 3 convolution at 14 x 14, a deconvolution 2 x 2 and the class at 28 x 28.
    assert count.parts['mask_head (5 detections)'] == 5 * (196 * (9 * 64 + 4 * 64) + 784 * 8)
    assert count.missing == []
    assert 'bbox_head (20 proposals)' in capsys.readouterr().out


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--shape', '0', '64'], '--shape 0 64 must be positive'),
        (['--shape', '7', '64'], 'an image of 7 x 64 pixels is smaller than a patch'),
    ],
)
def test_bad_shapes_are_one_line(trained, capsys, flags, message):
    with pytest.raises(SystemExit):
        main([str(trained.task.hst), *flags])
    assert f'get_flops.py: error: {message}' in capsys.readouterr().err
