"""Deltas and official checkpoints of version 0.1.0 (tests/data/v0) load and compute what they did."""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hstpeft.apis import init_model
from hstpeft.errors import UserError
from tests.support.models import draw, images
from tests.support.paths import OLD_FILES

SYSTEMS = sorted(path.parent.name for path in OLD_FILES.glob('*/config.json'))
OFFICIAL = [(path.parent.name, path.name) for path in sorted(OLD_FILES.glob('*/official*.pth'))]
SUFFIXES = [pytest.param('.pth', marks=pytest.mark.slow), '.safetensors']
# Relative to the largest logit. Rounding alone parts float32 from float64 by up to 1e-6; and timm
# resamples position embeddings, which the wide images need, in float32 whatever the model is in.
EXACT, ROUNDED = 1e-12, 1e-5
# On the machine that made the files: see their README.
BIT_EQUAL = os.environ.get('HSTPEFT_BIT_EQUAL') == '1'
IDENTITY = 'backbone._extra_state'
LONGEST_TEXT = 64


class System(NamedTuple):
    """The old files of a system, and a config for them as a user has it."""

    folder: Path
    record: dict[str, Any]
    leaf: Path


@pytest.fixture(scope='module')
def systems(tmp_path_factory) -> dict[str, System]:
    return {name: make_system(name, tmp_path_factory.mktemp(name)) for name in SYSTEMS}


def make_system(name: str, scratch: Path, trunk_seed: int | None = None) -> System:
    """Write the config file and the drawn trunk weights that it names."""
    record = json.loads((OLD_FILES / name / 'config.json').read_text())
    model, seed = record['model'], trunk_seed or record['trunk_seed']
    trunk, head = model['backbone']['trunk'], model['head']
    # 0.2.0 gave these options of HMA's head to its parts.
    if 'local_memory_size' in head:
        head['local_memory'] = dict(size=head.pop('local_memory_size'))
    if head['type'] == 'hstpeft.HMAClsHead':
        moved = {'num_heads', 'norm_after_topk', 'null_kv', 'drop_rate'} & head.keys()
        head['attention'] = {name: head.pop(name) for name in moved}
    if seed is not None:
        shapes = {key: value.shape for key, value in MODELS.build(trunk).net.state_dict().items()}
        trunk['weights'] = str(scratch / 'trunk.safetensors')
        save_file(draw(shapes, seed), trunk['weights'])
    leaf = scratch / 'leaf.py'
    leaf.write_text(f"default_scope = 'mmpretrain'\nmodel = {model!r}\n")
    return System(OLD_FILES / name, record, leaf)


def read_raw(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a delta by nothing of ours."""
    if path.suffix == '.safetensors':
        return load_file(path)
    return torch.load(path, weights_only=True)['state_dict']


def assert_same(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *left_out: str
) -> None:
    assert given.keys() == expected.keys()
    for key in given.keys() - set(left_out):
        assert given[key].dtype == expected[key].dtype, key
        assert given[key].equal(expected[key]), key


def assert_old_logits(model: nn.Module, system: System) -> None:
    """Compare with the logits of the old code; leaves the model in float32, with its values."""
    saved = np.load(system.folder / 'logits.npz')
    for name, (shape, seed) in system.record['images'].items():
        for dtype in (torch.float64, torch.float32):
            tolerance = EXACT if dtype == torch.float64 and name != 'wide' else ROUNDED
            expected = torch.from_numpy(saved[f'{name}_{str(dtype).removeprefix("torch.")}'])
            with torch.no_grad():
                logits = model.to(dtype)(images(*shape, seed=seed).to(dtype), mode='tensor')
            assert logits.dtype == expected.dtype == dtype
            error = (logits - expected).abs().max() / expected.abs().max()
            assert error <= tolerance, f'{name} {dtype}: {error:.1e}'
            assert logits.equal(expected) or not BIT_EQUAL, f'{name} {dtype}: {error:.1e}'


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('name', SYSTEMS)
def test_an_old_delta_gives_its_values_and_its_logits(systems, name, suffix):
    system, path = systems[name], OLD_FILES / name / f'delta{suffix}'
    model = init_model(system.leaf, path, 'cpu')
    # The identity alone may be written in another way today.
    assert_same(model.state_dict(), read_raw(path), IDENTITY)
    assert model.dataset_meta == {'classes': ['a', 'b', 'c', 'd', 'e']}
    assert_old_logits(model, system)


def convert(direction: str, system: System, file: str, source: Path, output: Path) -> Path:
    tool, *flags = system.record['official'][file]
    main = importlib.import_module(f'tools.model_converters.{tool}').main
    main([direction, str(system.leaf), str(source), str(output), *flags])
    return output


@pytest.mark.parametrize(('name', 'file'), OFFICIAL)
def test_an_old_official_checkpoint_is_read_as_before(systems, tmp_path, name, file):
    system = systems[name]
    output = convert('to-delta', system, file, system.folder / file, tmp_path / 'delta.safetensors')
    before = system.folder / f'converted_{Path(file).stem}.safetensors'
    before = before if before.is_file() else system.folder / 'delta.safetensors'
    assert_same(read_raw(output), read_raw(before), IDENTITY)
    assert_old_logits(init_model(system.leaf, output, 'cpu'), system)


@pytest.mark.parametrize(('name', 'file'), OFFICIAL)
def test_an_old_delta_becomes_the_same_official_checkpoint(systems, tmp_path, name, file):
    system = systems[name]
    delta = system.folder / 'delta.pth'
    output = convert('to-official', system, file, delta, tmp_path / 'official.pth')
    given, expected = (
        torch.load(path, weights_only=True)['model'] for path in (output, system.folder / file)
    )
    assert_same(given, expected)


# Of all these the keys and shapes are those of the model: only the identity tells.
OTHERS = [
    ('sa2vp', 'sa2vp-accelerated', {}),
    ('sa2vp-accelerated', 'sa2vp', {}),
    ('hst', 'hst-windows', {}),
    ('hst-windows', 'hst', {}),
    ('hst-windows', 'hst-windows', {'model.backbone.trunk.window_size': 3}),
    ('lora', 'lora', {'model.backbone.tuner.alpha': 4.0}),
    ('lora-windows-cut', 'lora-windows-cut', {'model.backbone.trunk.window_size': 3}),
]


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize(('delta', 'model', 'options'), OTHERS)
def test_an_old_delta_of_another_function_is_refused(systems, delta, model, options, suffix):
    with pytest.raises(UserError, match='the checkpoint was made'):
        init_model(systems[model].leaf, OLD_FILES / delta / f'delta{suffix}', 'cpu', options)


@pytest.mark.parametrize('name', ['hst', 'arc-swin', 'lora', 'hma'])
def test_an_old_delta_of_another_trunk_is_refused(tmp_path, name):
    other = make_system(name, tmp_path, trunk_seed=8)
    with pytest.raises(UserError, match='the checkpoint was made'):
        init_model(other.leaf, other.folder / 'delta.pth', 'cpu')


def test_the_files_are_the_old_ones():
    """Written anew by later code they would prove nothing."""
    texts = {}
    for name in SYSTEMS:
        packed = read_raw(OLD_FILES / name / 'delta.pth')[IDENTITY]
        assert packed.dtype == torch.uint8 and packed.shape == (2 * LONGEST_TEXT,)
        texts[name] = bytes(packed[LONGEST_TEXT:].tolist()).rstrip(b'\0').decode()
    assert texts['hst'] == 'HSTTuner'
    assert texts['sa2vp-accelerated'] == 'SA2VPTuner (accelerated)'
    assert texts['hst-windows'] == 'HSTTuner, windows of 2 but in (1, 3)'
    cut = 'LoRATuner (alpha=0.333333), windows of 2 but in (0, 1, 2, 3, 4, 5, 6)'
    assert texts['lora-windows-cut'] == cut[:LONGEST_TEXT] != cut
    assert len(SYSTEMS) == 23 and len(OFFICIAL) == 14
