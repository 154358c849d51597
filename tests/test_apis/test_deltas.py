"""hstpeft.apis.DeltaSwitch: several deltas, one trunk."""

import functools
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn

from hstpeft.apis import DeltaSwitch, inference, init_model
from hstpeft.delta import load_checkpoint, make_delta, save_delta
from hstpeft.engine.config import with_num_classes
from hstpeft.errors import UserError
from tests.support import dense_hosts, families, tiny
from tests.support.models import images

# Name -> tuner and class count. LoRA and SSF stand on layers, HST beside the trunk and trains norms.
DELTAS = {'birds': ('lora', 3), 'flowers': ('lora', 5), 'signs': ('ssf', 4), 'dials': ('hst', 2)}
LORA = "dict(type='hstpeft.LoRATuner', positions=['qkv'], rank=2)"
SSF = "dict(type='hstpeft.SSFTuner')"


@functools.cache
def leaves(task: tiny.Task) -> dict[str, Path]:
    """Leaves of one trunk by the name of the tuner."""
    found = {'hst': task.hst, 'frozen': task.linear}
    for name, options in (('lora', LORA), ('ssf', SSF)):
        found[name] = task.folder / f'{name}_tiny.py'
        found[name].write_text(
            tiny.LEAF.format(
                root=tiny.ROOT, tuner=name, weights=task.weights, data=task.data,
                tuner_options=options, width=32,
            )
        )  # fmt: skip
    return found


def write_delta(config: Path, path: Path, num_classes: int = 3, seed: int = 0) -> Path:
    """Write a delta of drawn values whose classes have names."""
    options = {'model.head.num_classes': num_classes}
    model = families.shake(init_model(config, device='cpu', cfg_options=options), seed=seed)
    classes = [f'{path.stem} {index}' for index in range(num_classes)]
    meta = {'dataset_meta': {'classes': classes}}
    save_delta(make_delta({'state_dict': model.state_dict(), 'meta': meta}), path)
    return path


@pytest.fixture(scope='module')
def deltas(trained, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('deltas')
    kinds = leaves(trained.task)
    return {
        name: write_delta(kinds[tuner], folder / f'{name}.pth', count, seed)
        for seed, (name, (tuner, count)) in enumerate(DELTAS.items())
    }


def new_switch(task: tiny.Task) -> DeltaSwitch:
    return DeltaSwitch(init_model(leaves(task)['lora'], device='cpu'))


@pytest.fixture(scope='module')
def switch(trained, deltas) -> DeltaSwitch:
    """All four deltas: those of the switch's own tuner need no config."""
    switch = new_switch(trained.task)
    for name, path in deltas.items():
        tuner, count = DELTAS[name]
        config = None if tuner == 'lora' else leaves(trained.task)[tuner]
        options = None if tuner == 'lora' else {'model.head.num_classes': count}
        switch.load_delta(name, path, config, options)
    return switch


def trunk_of(model: nn.Module) -> dict[int, Tensor]:
    """Frozen parameters of the trunk by the address of their values."""
    frozen = [p for p in model.backbone.trunk.parameters() if not p.requires_grad]
    return {p.untyped_storage().data_ptr(): p for p in frozen}


@pytest.mark.slow
def test_switching_equals_each_delta_alone_bit_by_bit(switch, task, deltas):
    image, seen = images(2, 3, 32, 32), []
    for name in [*deltas, *reversed(deltas)]:
        tuner, count = DELTAS[name]
        options = {'model.head.num_classes': count}
        alone = init_model(leaves(task)[tuner], deltas[name], 'cpu', options)
        model = switch.set_delta(name)
        assert switch.model is model and switch.name == name
        assert tiny.same(dict(model.state_dict()), dict(alone.state_dict()))
        assert model(image).equal(alone(image)) and model(image).shape == (2, count)
        assert model.dataset_meta == alone.dataset_meta and not model.training
        seen.append(model(image))
    assert not seen[0].equal(seen[-2][:, : seen[0].shape[1]]), 'two deltas of one kind differ'
    assert seen[0].equal(seen[-1])


def test_the_trunk_is_held_once(switch, task, deltas):
    bare = trunk_of(switch.disable_delta())
    numel = sum(p.numel() for p in switch.model.backbone.trunk.parameters())
    assert sum(p.numel() for p in bare.values()) == numel, 'each tensor has a storage of its own'
    for name in deltas:
        held = trunk_of(switch.set_delta(name))
        assert held.keys() <= bare.keys(), f'{name} has frozen tensors of its own'
        # All but what this tuner trains of the trunk.
        alone = trunk_of(init_model(leaves(task)[DELTAS[name][0]], device='cpu'))
        assert len(held) == len(alone) > len(bare) / 2


def test_the_model_that_the_switch_was_made_of_shares_its_trunk_and_stays_as_it_was(task, deltas):
    model = init_model(leaves(task)['lora'], deltas['birds'], 'cpu')
    before, frozen = model(images(1, 3, 32, 32)), trunk_of(model)
    switch = DeltaSwitch(model)
    switch.load_delta('flowers', deltas['flowers'])
    assert trunk_of(model) == frozen and frozen.keys() == trunk_of(switch.model).keys()
    assert model(images(1, 3, 32, 32)).equal(before)


def test_moved_together_the_trunk_stays_one(task, deltas):
    """The rule of `to`, by a dtype where there is one device: it is the parameters that are shared."""
    switch = new_switch(task)
    for name in ('birds', 'flowers'):
        switch.load_delta(name, deltas[name])
    assert switch.to('cpu') is switch and switch.device == torch.device('cpu')
    models = [switch.disable_delta(), switch.set_delta('birds'), switch.set_delta('flowers')]
    for model in models:
        model.to(torch.float64)
    first, *others = map(trunk_of, models)
    assert all(other.keys() == first.keys() for other in others)
    assert {p.dtype for p in first.values()} == {torch.float64}


def test_without_a_delta_there_are_the_features_of_the_trunk(switch, task):
    image = images(2, 3, 32, 32)
    model = switch.disable_delta()
    assert switch.name is None and model is switch.model
    probe = init_model(leaves(task)['frozen'], device='cpu')
    (features,) = model.extract_feat(image)
    assert features.equal(probe.backbone(image)[0]) and features.equal(model(image)[0])
    with pytest.raises(
        UserError, match="'predict' needs a head, and without a delta there is none"
    ):
        inference(model, sorted((task.data / 'images' / 'test').iterdir())[0])


def test_inference_takes_the_model_in_use_and_names_its_classes(switch, task):
    image = sorted((task.data / 'images' / 'test').iterdir())[0]
    for name, (_, count) in DELTAS.items():
        (result,) = inference(switch.set_delta(name), image)
        assert len(result['pred_scores']) == count
        assert result['pred_class'] == f'{name} {result["pred_label"]}'


def test_an_unknown_name_gets_the_nearest_and_changes_nothing(switch):
    switch.set_delta('birds')
    for method in (switch.set_delta, switch.remove_delta):
        with pytest.raises(UserError, match=r"'brids' is not loaded: did you mean 'birds'\?"):
            method('brids')
    assert switch.name == 'birds'


def test_a_delta_is_removed(task, deltas):
    switch = new_switch(task)
    with pytest.raises(UserError, match="'birds' is not loaded: call load_delta first"):
        switch.set_delta('birds')
    switch.load_delta('birds', deltas['birds'])
    with pytest.raises(UserError, match="'birds' is loaded already"):
        switch.load_delta('birds', deltas['flowers'])
    switch.set_delta('birds')
    switch.remove_delta('birds')
    assert switch.name is None and switch.names == ()


def spoilt(kind: str, task: tiny.Task, path: Path, folder: Path) -> tuple[Path, Path | None, str]:
    """Return a delta that is to be refused, its config, and what the message says."""
    delta = load_checkpoint(path)
    match kind:
        case 'damaged':
            broken = folder / 'broken.pth'
            broken.write_bytes(path.read_bytes()[:-200])
            return broken, None, 'cannot be read'
        case 'tuner':
            return write_delta(leaves(task)['ssf'], folder / 'ssf.pth'), None, 'tuner SSFTuner'
        case 'key':
            del delta['state_dict']['head.fc.bias']
        case 'classes':
            delta['meta']['dataset_meta'] = {}
            delta['state_dict']['head.fc.bias'] = torch.ones(7)
        case _:  # a merged delta has another trunk too
            other = tiny.make_task(folder / 'other', seed=1)
            return (
                write_delta(other.linear, folder / 'o.pth'),
                other.linear,
                'switch holds the trunk',
            )
    save_delta(delta, folder / f'{kind}.pth')
    return folder / f'{kind}.pth', None, 'neck or head does not fit'


@pytest.mark.parametrize('kind', ['damaged', 'tuner', 'key', 'classes', 'trunk'])
def test_what_does_not_fit_is_refused_before_anything_changes(switch, task, deltas, tmp_path, kind):
    path, config, message = spoilt(kind, task, deltas['birds'], tmp_path)
    image = images(1, 3, 32, 32)
    before, names = switch.set_delta('birds')(image), switch.names
    with pytest.raises(UserError, match=message):
        switch.load_delta('more', path, config)
    assert (switch.names, switch.name) == (names, 'birds')
    assert switch.model(image).equal(before)


def test_trunks_without_weights_or_in_another_dtype_are_refused(switch, task, deltas):
    trunk = 'model.backbone.trunk'
    random = init_model(leaves(task)['lora'], device='cpu', cfg_options={f'{trunk}.weights': None})
    with pytest.raises(UserError, match='no pre-trained weights, so a delta holds the whole trunk'):
        DeltaSwitch(random)
    with pytest.raises(UserError, match=r"'more': the config holds the trunk in torch\.bfloat16"):
        switch.load_delta('more', deltas['birds'], cfg_options={f'{trunk}.dtype': 'bfloat16'})


def test_only_models_with_a_tuned_backbone_and_a_config_are_taken(task):
    with pytest.raises(UserError, match='backbone of Linear is NoneType'):
        DeltaSwitch(nn.Linear(1, 1))
    model = init_model(leaves(task)['lora'], device='cpu')
    del model.cfg
    with pytest.raises(UserError, match='no config as cfg'):
        DeltaSwitch(model)


@pytest.mark.slow
@pytest.mark.parametrize('part', ['upernet', 'cascade-mask-rcnn'])
def test_models_of_the_dense_hosts_are_switched_too(part, tmp_path):
    """The last delta has another number of classes, in every head of the model."""
    lora, hst = (dense_hosts.write_leaf(part, s, tmp_path, tmp_path) for s in ('lora', 'hst'))
    switch = DeltaSwitch(init_model(lora, device='cpu'))
    many = with_num_classes(switch.cfg, 11)
    for name, config, given in (('lora', lora, lora), ('hst', hst, hst), ('many', many, None)):
        model = families.shake(init_model(config, device='cpu'))
        meta = {'dataset_meta': {'classes': list('abcdefghijk') if given is None else ['a']}}
        delta, path = make_delta({'state_dict': model.state_dict(), 'meta': meta}), tmp_path / name
        save_delta(delta, path)
        switch.load_delta(name, path, given)
        init_default_scope('mmpretrain')
        chosen = switch.set_delta(name)
        assert DefaultScope.get_current_instance().scope_name == dense_hosts.TASKS[part].host
        image = images(1, 3, 64, 64)
        mine, alone = (model.extract_feat(image) for model in (chosen, model.eval()))
        assert len(mine) > 1 and tiny.same(list(mine), list(alone))
        assert tiny.same(dict(chosen.state_dict()), dict(model.state_dict()))
    held = trunk_of(switch.disable_delta())
    assert all(trunk_of(switch.set_delta(name)).keys() <= held.keys() for name in switch.names)
