"""Deltas that fit by their tensors, on a backbone that gives something else: refused by what they say."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hstpeft.apis import init_model
from hstpeft.delta import make_delta, save_delta
from hstpeft.delta.identity import decode_identity, encode_identity, write_form
from hstpeft.engine.checkpoint import check_checkpoint
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.families import FROZEN, shake, tuned
from tests.support.models import MODELS, vit_weights
from tools.test import main

ARC = dict(type='hstpeft.ARCTuner', adapter_dims=3)
IDENTITY = 'backbone._extra_state'


class Host(nn.Module):
    """A backbone with a head, as a host would build it."""

    def __init__(self, family: str = 'swin', **options: Any) -> None:
        super().__init__()
        self.backbone = tuned(family, FROZEN, **options)
        self.head = nn.Linear(1, 2)


def form_of(backbone: nn.Module) -> dict[str, Any]:
    return json.loads(decode_identity(backbone.state_dict()['_extra_state']).form)


def test_the_form_is_readable_and_its_defaults_are_written_out():
    usual = dict(dtype='float32', out_norm=False)
    assert form_of(tuned('vit', ARC)) == {**usual, 'out_indices': [3], 'out_type': 'cls_token'}
    assert form_of(tuned('vit', ARC, out_indices=-1)) == form_of(tuned('vit', ARC))
    maps = dict(out_type='featmap', out_indices=(0, 3), out_norm=True)
    expected = dict(dtype='float32', out_norm=True, out_indices=[0, 3], out_type='featmap')
    assert form_of(tuned('swin', ARC, **maps)) == expected


# Options of the one, of the other, and what is said. The keys and shapes are the same ones.
FORMS = [
    ({}, dict(out_type='avg_featmap'), 'out_type=cls_token, the model has out_type=avg_featmap: '),
    (
        dict(out_indices=3),
        dict(out_indices=(2, 3)),
        r'out_indices=\[3\], the model has out_indices=\[2, 3\]: ',
    ),
    (
        dict(out_type='featmap', out_indices=(0, 3)),
        dict(out_type='raw', out_indices=(1, 3)),
        r'out_indices=\[0, 3\], out_type=featmap, the model has out_indices=\[1, 3\], out_type=raw: ',
    ),
]  # fmt: skip


@pytest.mark.parametrize(('one', 'other', 'said'), FORMS)
def test_another_form_is_refused_and_both_are_named(one, other, said):
    first, second = (tuned('vit', FROZEN, **options) for options in (one, other))
    assert first.state_dict().keys() == second.state_dict().keys()
    with pytest.raises(UserError, match=f'made with backbone.{said}use the config that'):
        second.load_state_dict(first.state_dict())
    first.load_state_dict(first.state_dict())


def test_many_indices_take_no_more_room_and_are_told_apart():
    forms = [write_form('featmap', range(last), False, torch.float32) for last in (39, 40)]
    assert forms[0] != forms[1] and all(len(form) <= 128 for form in forms)
    assert write_form('featmap', list(range(40)), False, torch.float32) == forms[1]
    assert json.loads(forms[0])['out_type'] == 'featmap'


def test_a_delta_of_the_first_layout_of_0_2_loads_whatever_its_form(caplog):
    one, other = tuned('vit', ARC), tuned('vit', ARC, out_type='avg_featmap')
    state = shake(one).state_dict()
    state['_extra_state'] = state['_extra_state'][:256]
    other.load_state_dict(state)
    assert torch.equal(next(other.tuner.parameters()), next(one.tuner.parameters()))


@pytest.mark.parametrize('text', ['[1]', '{"out_type', 'x'])
def test_a_damaged_form_is_said_to_be_damaged(text):
    state = tuned('vit', ARC).state_dict()
    state['_extra_state'] = encode_identity(
        decode_identity(state['_extra_state'])._replace(form=text)
    )
    with pytest.raises(UserError, match='identity is damaged'):
        tuned('vit', ARC).load_state_dict(state)


def test_another_dtype_of_the_frozen_tensors_is_one_warning(capsys):
    one, other = (tuned('vit', ARC, trunk=dict(dtype=dtype)) for dtype in ('bfloat16', 'float32'))
    state = shake(one).state_dict()
    assert one.identity().function == other.identity().function
    capsys.readouterr()
    other.load_state_dict(state)
    said = capsys.readouterr()
    said = said.out + said.err
    assert said.count('frozen tensors in bfloat16, the model holds them in float32') == 1
    assert 'WARNING' in said and len(said.strip().splitlines()) == 1
    one.load_state_dict(state)
    assert 'frozen tensors' not in ''.join(capsys.readouterr())


def test_a_new_task_may_read_other_outputs_and_brings_its_own_norms():
    one = Host(out_type='avg_featmap')
    other = Host(out_type='featmap', out_indices=(0, 1, 3), out_norm=True)
    norms = {k: v.clone() for k, v in other.state_dict().items() if '.out_norms.' in k}
    assert norms
    with pytest.raises(UserError, match=r'the model has out_indices=\[0, 1, 3\], out_norm=True'):
        check_checkpoint(other, {'state_dict': one.state_dict()}, allow_new_head=False)
    for source, target in ((one, other), (other, one)):
        state = source.state_dict()
        check_checkpoint(target, {'state_dict': state}, allow_new_head=True)
        missing, unexpected = target.load_state_dict(state, strict=False)
        assert not missing and not unexpected
    assert all(torch.equal(other.state_dict()[key], value) for key, value in norms.items())


def test_a_new_task_may_have_another_kind_of_neck_or_none_and_starts_it_afresh(capsys):
    """From a classifier's pooling with norm to a pyramid, to no neck, and back."""
    pooled = dict(type='hstpeft.PooledNorm', in_channels=32)
    pyramid = dict(type='hstpeft.SimpleFeaturePyramid', in_channels=32, out_channels=8)
    necks = {'pooled': pooled, 'pyramid': pyramid, 'none': None}
    for source, target in (('pooled', 'pyramid'), ('none', 'pooled'), ('pyramid', 'none')):
        hosts = [Host('vit') for _ in range(2)]
        for host, name in zip(hosts, (source, target), strict=True):
            host.neck = MODELS.build(dict(necks[name])) if necks[name] else None
        one, other = hosts
        shake(one.backbone)
        before = {k: v.clone() for k, v in other.state_dict().items() if k.startswith('neck.')}
        with pytest.raises(UserError, match='neck or head does not fit'):
            check_checkpoint(other, {'state_dict': one.state_dict()}, allow_new_head=False)
        state = one.state_dict()
        capsys.readouterr()
        check_checkpoint(other, {'state_dict': state}, allow_new_head=True)
        assert 'the neck is new' in ''.join(capsys.readouterr())
        other.load_state_dict(state, strict=False)
        after = other.state_dict()
        assert all(after[key].equal(value) for key, value in before.items())
        assert all(after[k].equal(v) for k, v in state.items() if k.startswith('backbone.'))


def test_a_neck_of_the_same_kind_must_fit_in_a_new_task_too():
    one, other = Host('vit'), Host('vit')
    for host, width in ((one, 32), (other, 16)):
        host.neck = MODELS.build(dict(type='hstpeft.PooledNorm', in_channels=width))
    with pytest.raises(UserError, match=r'neck.norm.running_mean \(32,\) instead of \(16,\)'):
        check_checkpoint(other, {'state_dict': one.state_dict()}, allow_new_head=True)
    state = one.state_dict()
    del state['neck.norm.running_var']
    with pytest.raises(UserError, match=r'missing: neck\.norm\.running_var'):
        check_checkpoint(one, {'state_dict': state}, allow_new_head=True)


def test_a_new_task_needs_the_same_trunk_and_tuner_all_the_same():
    state = Host('vit', out_type='avg_featmap').state_dict()
    other = Host('vit', trunk=dict(arch_options=dict(act_layer='relu')), out_type='featmap')
    with pytest.raises(UserError, match='the checkpoint was made'):
        check_checkpoint(other, {'state_dict': state}, allow_new_head=True)


# Trunk and tuner of a leaf, and settings under which a delta of it computes something else.
TUNER, TRUNK = 'model.backbone.tuner', 'model.backbone.trunk'
SETTINGS = [
    ('hst', f'{TUNER}.side_heads=[1,2,4,4]', 'other options of HSTTuner'),
    ('hst', f'{TUNER}.tap_indices=[0,2,4,7]', 'other options of HSTTuner'),
    ('hst', 'model.backbone.out_indices=[0,1,2]', r'out_indices=\[0, 1, 2, 3\], the model has'),
    ('frozen', f'{TRUNK}.arch_options.num_heads=4', 'other options of FrozenTuner or of its trunk'),
    ('frozen', f'{TRUNK}.arch_options.act_layer=relu', 'other options of FrozenTuner'),
    ('frozen', 'model.backbone.out_indices=6', r'out_indices=\[7\], the model has'),
    ('frozen', 'model.backbone.out_type=avg_featmap', 'out_type=cls_token, the model has'),
    ('sa2vp', f'{TUNER}.mixing_weight=0.2', 'other options of SA2VPTuner'),
    ('sa2vp', f'{TUNER}.exchange_indices=[0,1]', 'other options of SA2VPTuner'),
]
EXTRA = {
    'hst': 'side_dims=[8, 8, 16, 16], side_heads=[2, 2, 4, 4], side_depths=[1, 1, 1, 1]',
    'frozen': '',
    'sa2vp': 'inner_dims=3, deep_prompt_indices=[], exchange_indices=[0, 2]',
}  # fmt: skip


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Write a leaf of each tuner on a trunk of 8 blocks, and a delta of it."""
    folder = tmp_path_factory.mktemp('settings')
    weights, data = folder / 'vit.safetensors', tiny.write_data(folder / 'data')
    save_file(vit_weights(depth=8), weights)
    found = {}
    for tuner, options in EXTRA.items():
        text = tiny.LEAF.format(
            root=tiny.ROOT, tuner=tuner, weights=weights, data=data,
            tuner_options=f'dict(_base_.tuner, {options})', width=16 if tuner == 'hst' else 32,
        ).replace('depth=4', 'depth=8')  # fmt: skip
        if tuner == 'sa2vp':
            text = text.replace('in_channels=32', "in_channels=32, type='hstpeft.TwoBranchClsHead'")
        leaf, delta = folder / f'{tuner}.py', folder / f'{tuner}.pth'
        leaf.write_text(text + (tiny.NECK if tuner == 'hst' else ''))
        save_delta(make_delta({'state_dict': init_model(leaf, device='cpu').state_dict()}), delta)
        found[tuner] = leaf, delta
    return found


@pytest.mark.parametrize(('tuner', 'setting', 'said'), SETTINGS)
def test_test_py_refuses_a_delta_under_another_setting(written, tuner, setting, said, capsys):
    leaf, delta = written[tuner]
    with pytest.raises(SystemExit) as ending:
        main(tiny.arguments(leaf, leaf.parent / 'work', delta, options=[setting]))
    assert ending.value.code == 1
    (line,) = itertools.islice(reversed(capsys.readouterr().err.splitlines()), 1)
    assert line.startswith('test.py: error: the checkpoint was made with '), line
    assert re.search(said, line), line


def test_test_py_takes_them_under_their_own(written):
    for leaf, delta in written.values():
        assert main(tiny.arguments(leaf, leaf.parent / 'work', delta))['accuracy/top1'] >= 0
