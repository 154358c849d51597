"""The tables of tasks: VTAB_TASK, VTAB_ROOT and their like choose the data of one config."""

import re

import pytest
from mmengine.config import Config

from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from tests.support import tiny

CONFIGS = tiny.ROOT / 'configs'
VTAB = CONFIGS / 'hst' / 'hst_vit-ti16_1xb32-12e_vtab-1k.py'
TASKS = dict(
    caltech101=102, cifar=100, clevr_count=8, clevr_dist=6, diabetic_retinopathy=5, dmlab=6,
    dsprites_loc=16, dsprites_ori=16, dtd=47, eurosat=10, kitti=4, oxford_flowers102=102,
    oxford_iiit_pet=37, patch_camelyon=2, resisc45=45, smallnorb_azi=18, smallnorb_ele=9,
    sun397=397, svhn=10,
)  # fmt: skip


def pairs(pattern, tasks):
    """Every leaf with one task, and, slowly, with all tasks one leaf of each recipe."""
    first, *others = tasks
    seen, found = set(), []
    for leaf in sorted(CONFIGS.glob(pattern)):
        # A leaf may inherit its recipe; mmengine puts the texts of its bases before its own.
        recipe = re.findall(r"'\S+schedules/(\S+)\.py'", Config.fromfile(leaf).text)[-1]
        found.append(pytest.param(leaf, first))
        if recipe not in seen:
            found += [pytest.param(leaf, task, marks=pytest.mark.slow) for task in others]
        seen.add(recipe)
    return found


def name(value):
    return getattr(value, 'stem', value)


@pytest.mark.parametrize(('leaf', 'task'), pairs('*/*vtab-1k.py', TASKS), ids=name)
def test_every_task_of_vtab_has_its_classes_and_folder(monkeypatch, tmp_path, leaf, task):
    monkeypatch.setenv('VTAB_TASK', task)
    monkeypatch.setenv('VTAB_ROOT', str(tmp_path))
    config = load_config(leaf)
    assert config.model.head.num_classes == TASKS[task]
    for loader, ann_file in (
        (config.train_dataloader, 'train800val200.txt'),
        (config.test_dataloader, 'test.txt'),
    ):
        dataset = loader.dataset
        assert (dataset.data_root, dataset.ann_file) == (f'{tmp_path}/{task}', ann_file)
        assert dataset.num_classes == TASKS[task]
    assert config.optim_wrapper.optimizer.lr > 0


def test_there_are_19_tasks():
    assert len(TASKS) == 19
    assert set(load_config(VTAB).vtab_num_classes) == set(TASKS)


def test_a_folder_outside_the_table_brings_its_classes(monkeypatch, tmp_path):
    monkeypatch.setenv('VTAB_TASK', 'my_birds')
    monkeypatch.setenv('VTAB_ROOT', str(tmp_path))
    (tmp_path / 'my_birds').mkdir()
    (tmp_path / 'my_birds' / 'classes.txt').write_text('robin\nwren\nblue tit\n')
    config = load_config(VTAB)
    assert config.model.head.num_classes == config.train_dataloader.dataset.num_classes == 3


def test_an_unknown_task_lists_the_known_ones(monkeypatch, tmp_path):
    monkeypatch.setenv('VTAB_TASK', 'cifer')
    monkeypatch.setenv('VTAB_ROOT', str(tmp_path))
    with pytest.raises(UserError, match='VTAB_TASK cifer is neither a folder') as info:
        load_config(VTAB)
    assert all(task in str(info.value) for task in TASKS)


FGVC = dict(cub=200, nabirds=555, flowers=102, cars=196, dogs=120)


@pytest.mark.parametrize(('leaf', 'task'), pairs('*/*_fgvc.py', FGVC), ids=name)
def test_every_fine_grained_set_has_its_classes(monkeypatch, tmp_path, leaf, task):
    monkeypatch.setenv('FGVC_TASK', task)
    monkeypatch.setenv('FGVC_ROOT', str(tmp_path))
    config = load_config(leaf)
    assert config.model.head.num_classes == FGVC[task]
    assert config.train_dataloader.dataset.data_root == f'{tmp_path}/{task}'


@pytest.mark.parametrize('leaf', sorted(CONFIGS.glob('*/*cifar100.py')), ids=lambda path: path.stem)
def test_images_of_cifar_which_are_rgb_are_not_flipped(leaf):
    # mmpretrain's files are read as BGR, but its CIFAR arrays are RGB.
    assert load_config(leaf).model.data_preprocessor.to_rgb is False
