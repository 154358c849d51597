"""hstpeft.apis: shipped models by name, and strict loading of a delta."""

import pytest
import torch

from hstpeft.apis import get_model, init_model, list_models
from hstpeft.errors import UserError
from tests.support import tiny

NAME = 'hst_vit-ti16_1xb32-12e_vtab-1k'
SMALL = {
    'model.backbone.trunk.weights': None,
    'model.backbone.trunk.arch_options': dict(
        embed_dim=32, depth=4, num_heads=2, weight_init='skip'
    ),
}


def test_models_are_the_leaves_without_their_parts():
    names = list_models()
    assert NAME in names and names == sorted(names)
    methods = [path for path in (tiny.ROOT / 'configs').iterdir() if path.name != '_base_']
    assert set(names) == {leaf.stem for method in methods for leaf in method.glob('*.py')}


def test_models_are_found_by_part_and_pattern():
    assert list_models('vit-ti16') == list_models('*vit-ti16*')
    assert NAME in list_models('hst_*') and NAME not in list_models('linear*')
    assert list_models('no such model') == []


def test_a_model_is_built_by_its_name():
    model = get_model(NAME, device='cpu', cfg_options=SMALL)
    assert not model.training
    assert (model.backbone.trunk.num_layers, model.head.num_classes) == (4, 100)
    assert model.cfg.model.backbone.trunk.arch == 'vit_tiny_patch16_224'


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(
        UserError, match=rf"'hst_vit-ti16_vtab-1k' is not shipped: did you mean '{NAME}'"
    ):
        get_model('hst_vit-ti16_vtab-1k')


def test_a_misspelt_option_gets_the_nearest(task):
    with pytest.raises(UserError, match=r"did you mean 'num_meta_tokens'\?"):
        init_model(task.hst, cfg_options={'model.backbone.tuner.num_meta_toks': 2})


@pytest.mark.parametrize('which', ['delta.pth', 'epoch_3.pth'])
def test_a_delta_is_loaded_with_its_classes(trained, which):
    model = init_model(trained.task.hst, trained.work_dir / which, 'cpu')
    assert tuple(model.dataset_meta['classes']) == tiny.CLASSES
    assert tiny.same(dict(model.state_dict()), dict(tiny.load(trained.delta)['state_dict']))


def test_a_config_object_is_not_changed(trained):
    config = init_model(trained.task.hst, device='cpu').cfg
    text = config.pretty_text
    options = {'model.backbone.tuner.num_meta_tokens': 2}
    model = init_model(config, device='cpu', cfg_options=options)
    assert model.backbone.tuner.num_meta_tokens == 2
    assert config.pretty_text == text


def test_loading_is_strict_about_the_trunk(trained, tmp_path):
    other = tiny.make_task(tmp_path, seed=1)
    with pytest.raises(UserError, match='made on the trunk'):
        init_model(other.hst, trained.delta, 'cpu')


@pytest.mark.parametrize(
    'key', ['head.fc.bias', 'neck.norm.running_mean', 'backbone.tuner.meta_tokens.3']
)
@pytest.mark.parametrize('kind', ['missing', 'unexpected', 'shape'])
def test_loading_is_strict_about_every_key(trained, tmp_path, key, kind):
    delta = tiny.load(trained.delta)
    value = delta['state_dict'].pop(key)
    if kind == 'shape':
        delta['state_dict'][key] = torch.cat([value, value])
    if kind == 'unexpected':
        delta['state_dict'].update({key: value, f'{key}_more': value})
    torch.save(delta, tmp_path / 'delta.pth')
    with pytest.raises(UserError, match=f'{kind}: {key.removeprefix("backbone.")}'):
        init_model(trained.task.hst, tmp_path / 'delta.pth', 'cpu')


def test_a_new_head_is_only_taken_when_allowed(trained):
    options = {'model.head.num_classes': 7}
    with pytest.raises(UserError, match='--allow-new-head'):
        init_model(trained.task.hst, trained.delta, 'cpu', options)
    model = init_model(trained.task.hst, trained.delta, 'cpu', options, allow_new_head=True)
    old, new = tiny.load(trained.delta)['state_dict'], model.state_dict()
    assert new['head.fc.weight'].shape == (7, 16)
    assert all(new[key].equal(old[key]) for key in old if not key.startswith('head.'))
