"""tools/model_converters/hma.py: official checkpoints with queue and momentum encoder."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hstpeft.apis import init_model
from hstpeft.oracle.literal.hma import HMAOptions, hma_shapes, literal_hma
from tests.support.hma_parts import CLASSES, DIMS, LABEL_DIMS
from tests.support.models import draw, images, vit_weights
from tools.model_converters.hma import main

LEAF = """
default_scope = 'mmpretrain'
arch_options = dict(img_size=32, embed_dim=24, depth=2, num_heads=2, patch_size=8)
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_tiny_patch16_224', arch_options=arch_options)
model = dict(
    type='hstpeft.HMAClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk=dict(weights='{weights}', **trunk),
        tuner=dict({tuner}),
    ),
    head=dict(
        type='hstpeft.HMAClsHead', num_classes=5, in_channels=24, label_dims=8,
        local_memory=dict(size=12), global_memory_per_class=2, batch_attention_at_test=True{head},
    ),
    encoder_momentum={momentum},
)
"""
FULL = "type='hstpeft.FullTuner'"
FROZEN = "type='hstpeft.FrozenTuner'"
TOKENS = "type='hstpeft.MemoryTokensTuner', mode='standard', num_memory_tokens=3"


class Official(NamedTuple):
    """An official checkpoint, and a leaf for it."""

    folder: Path
    tensors: dict[str, Tensor]

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'


def make(
    folder: Path,
    tuner: str = FROZEN,
    momentum: float = 0.0,
    dropout: float = 0.1,
    null: bool = False,
    trained: tuple[str, ...] = (),
    memory_tokens: bool = False,
) -> Official:
    """Write trunk weights, a leaf, and an official checkpoint whose encoder has trained parts."""
    trunk = vit_weights(embed_dim=DIMS, depth=2)
    save_file(trunk, folder / 'vit.safetensors')
    head = f', attention=dict(drop_rate={dropout}, null_kv={null})'
    text = LEAF.format(
        weights=folder / 'vit.safetensors', tuner=tuner, momentum=momentum, head=head
    )
    (folder / 'leaf.py').write_text(text)
    shapes = hma_shapes(DIMS, LABEL_DIMS, CLASSES, 12, 2, True, 'all', null, bool(dropout))
    tensors = draw({k: v for k, v in shapes.items() if k != 'queue_ptr'}, seed=8)
    tensors['queue_ptr'] = torch.tensor([7])
    for number, encoder in enumerate(('encoder', 'momen_encoder')[: 1 + bool(momentum)]):
        own = dict(trunk)
        if memory_tokens:
            shape = (1, 3, DIMS)
            own.update(draw({f'blocks.{i}.added_mem': shape for i in range(2)}, seed=9 + number))
        for key in own:
            if key in trained or trained == ('all',):
                own[key] = own[key] * (1.1 + number)
        tensors.update({f'{encoder}.{key}': value for key, value in own.items()})
    torch.save({'state_dict': {**tensors, 'encoder.head.weight': torch.ones(9, DIMS)}},
               folder / 'official.pth')  # fmt: skip
    return Official(folder, tensors)


def convert(direction: str, official: Official, source: Path, output: Path, *more: str) -> Path:
    main([direction, str(official.leaf), str(source), str(output), *more])
    return output


CASES = {
    'frozen': {},
    'frozen, no dropout': dict(dropout=0.0),
    'null key': dict(null=True),
    'everything trained': dict(tuner=FULL, trained=('all',)),
    'everything trained, momentum': dict(tuner=FULL, trained=('all',), momentum=0.9),
    'memory tokens': dict(tuner=TOKENS, memory_tokens=True, trained=('cls_token',)),
    'memory tokens, momentum': dict(
        tuner=TOKENS, memory_tokens=True, trained=('cls_token',), momentum=0.9
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_round_trip_is_exact(tmp_path, case):
    official = make(tmp_path, **CASES[case])
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'new' / 'delta.pth')
    back = convert('to-official', official, delta, tmp_path / 'other' / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == official.tensors.keys()
    assert all(tensors[key].equal(value) for key, value in official.tensors.items())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_converted_delta_gives_the_official_logits(tmp_path, suffix):
    official = make(tmp_path, tuner=FULL, trained=('all',), momentum=0.9)
    delta = convert('to-delta', official, official.checkpoint, tmp_path / f'delta{suffix}')
    model = init_model(official.leaf, delta, 'cpu')
    image = images(4, 3, 32, 32)
    with torch.no_grad():
        features = model.backbone(image)[-1]
        expected = literal_hma(official.tensors, features, HMAOptions())[1]
        torch.testing.assert_close(model(image), expected)
        copied = model.momentum_features(image)[-1]
    assert (copied - features).abs().max() > 0.01
    assert model.head.queue.pointer.tolist() == [7]
    assert model.head.queue.labels.tolist() == [-1] * 12


def test_an_encoder_that_the_tuner_does_not_train_becomes_a_trunk(tmp_path, capsys):
    official = make(tmp_path, trained=('cls_token',))
    with pytest.raises(SystemExit):
        convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    line = capsys.readouterr().err
    assert line.startswith('hma.py: error: cls_token of the official checkpoint is not that of')
    trunk = tmp_path / 'own' / 'trunk.pth'
    delta = convert(
        'to-delta', official, official.checkpoint, tmp_path / 'd.pth', '--own-trunk', str(trunk)
    )
    model = init_model(official.leaf, delta, 'cpu', {'model.backbone.trunk.weights': str(trunk)})
    assert model.backbone.trunk.vit.cls_token.equal(official.tensors['encoder.cls_token'])


def refusal(official: Official, source: Path, capsys, direction: str = 'to-delta') -> str:
    with pytest.raises(SystemExit, match='1'):
        convert(direction, official, source, official.folder / 'never.pth')
    assert not (official.folder / 'never.pth').exists()
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda t: t.pop('fc.bias'), "missing ['fc.bias']"),
        (lambda t: t.pop('queue'), 'missing: head.queue.labels, head.queue.rows'),
        (lambda t: t.pop('ABD_block.mab.ln1.weight'), 'missing: head.batch_read.mlp_norm.weight'),
        (lambda t: t.update({'conv.weight': torch.ones(1)}), "left over ['conv.weight']"),
        (lambda t: t.update(queue=torch.ones(5, 32)), 'head.queue.rows (5, 32) instead of'),
        (
            lambda t: t.update({'momen_encoder.cls_token': torch.ones(1, 1, DIMS)}),
            'unexpected: momentum_backbone.trunk.vit.cls_token',
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, capsys, change, words):
    official = make(tmp_path)
    change(official.tensors)
    torch.save(official.tensors, tmp_path / 'changed.pth')
    assert words in refusal(official, tmp_path / 'changed.pth', capsys)


def test_another_head_has_no_official_form(tmp_path, capsys):
    official = make(tmp_path)
    text = official.leaf.read_text()
    start = text.index('    head=dict(')
    plain = "    head=dict(type='LinearClsHead', num_classes=5, in_channels=24),\n)\n"
    official.leaf.write_text(text[:start] + plain)
    model = init_model(official.leaf, None, 'cpu')
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'delta.pth')
    line = refusal(official, tmp_path / 'delta.pth', capsys, 'to-official')
    assert 'no HMA head' in line
