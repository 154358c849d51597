"""Data sets of mmseg and mmdet that are wrong: one clear error before the first step, or a note."""

import json
import re
from pathlib import Path

import pytest
from mmengine.registry import DATASETS

from hstpeft.engine.checks import data_hook, datasets
from hstpeft.engine.checks.coco import Categories
from hstpeft.engine.checks.datasets import check_dataset
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError, one_line_errors
from tests.support.dense_data import (
    NAMES,
    box_dataset,
    coco,
    config,
    seg_dataset,
    write_boxes,
    write_segmentation,
)

KEY = r'train_dataloader\.dataset'


@pytest.fixture
def boxes():
    """mmdet needs mmcv's compiled operators."""
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    return write_boxes


def fails(cfg, message: str) -> None:
    """Train, and expect an error of one sentence."""
    with pytest.raises(UserError, match=f'^{message}$'):
        build_runner(cfg).train()


def without(content: dict, *parts: str) -> dict:
    return {name: [] if name in parts else value for name, value in content.items()}


def test_sound_data_of_both_hosts_train(tmp_path, boxes):
    boxes(tmp_path / 'boxes'), write_segmentation(tmp_path / 'masks')
    for dataset, folder in ((box_dataset, 'boxes'), (seg_dataset, 'masks')):
        root = tmp_path / folder
        cfg = config(tmp_path / 'work', dataset(root), dataset(root, 'val'))
        runner = build_runner(cfg, ('train_dataloader', 'val_dataloader'))
        runner.train()
        assert runner.iter == 1
        assert runner.test() == {'images': 3}


PATHS = {
    'annotation file': (
        dict(ann_file='trainn.json'),
        r"ann_file 'trainn\.json' \(\S+/trainn\.json\)",
    ),
    'folder': (dict(data_prefix=dict(img='imgs')), r"data_prefix\.img 'imgs' \(\S+/data/imgs\)"),
    'root': (dict(data_root='/nowhere/data'), r'data_root /nowhere/data'),
}


@pytest.mark.parametrize('case', PATHS)
@pytest.mark.parametrize('wrapper', [None, 'dataset', 'datasets'])
def test_path_that_does_not_exist_is_named_before_anything_is_built(case, wrapper, tmp_path, boxes):
    options, said = PATHS[case]
    dataset = {**box_dataset(boxes(tmp_path / 'data')), **options}
    key = KEY
    if wrapper == 'dataset':
        dataset, key = dict(type='RepeatDataset', times=2, dataset=dataset), rf'{KEY}\.dataset'
    elif wrapper:
        good = box_dataset(tmp_path / 'data')
        dataset = dict(type='ConcatDataset', datasets=[good, dataset])
        key = rf'{KEY}\.datasets\.1'
    cfg = config(tmp_path / 'work', dataset, model=dict(type='never built'))
    with pytest.raises(UserError, match=rf'^{key}\.{said} does not exist: fix the path, .+'):
        build_runner(cfg, ('train_dataloader',))


def test_path_of_the_evaluator(tmp_path):
    root = write_segmentation(tmp_path)
    cfg = config(tmp_path, seg_dataset(root), seg_dataset(root, 'val'))
    cfg.val_evaluator = [dict(type='Nothing'), dict(type='Nothing', ann_file='/nowhere/val.json')]
    said = r'^val_evaluator\.1\.ann_file /nowhere/val\.json does not exist: .+'
    with pytest.raises(UserError, match=said):
        build_runner(cfg, ('train_dataloader', 'val_dataloader'))


@pytest.mark.parametrize(
    'change',
    [
        dict(data_root='s3://bucket/data'),
        dict(data_root='/nowhere', backend_args=dict(backend='petrel')),
        dict(ann_file='', data_prefix=dict(img_path='', seg_map_path=None)),
        dict(type='hstpeft.VTAB1k', data_root='/nowhere', ann_file='nothing.txt'),
        dict(type='mmpretrain.CIFAR100', data_root='/nowhere', data_prefix='nothing'),
    ],
)
def test_what_is_remote_or_fetched_or_ours_is_not_looked_up(change, tmp_path):
    dataset = {**seg_dataset(write_segmentation(tmp_path)), **change}
    build_runner(config(tmp_path / 'work', dataset), ('train_dataloader',))


def test_loader_that_the_run_does_not_use_may_name_what_does_not_exist(tmp_path):
    root = write_segmentation(tmp_path)
    cfg = config(tmp_path / 'w', seg_dataset(tmp_path / 'gone'), seg_dataset(root, 'val'))
    assert build_runner(cfg).test() == {'images': 3}


EMPTY = {
    'no images': (
        without(coco(), 'images', 'annotations'), {},
        rf'{KEY}: ann_file \S+/train\.json lists no images: .+',
    ),
    'no annotations, filtered': (
        without(coco(), 'annotations'), dict(filter_cfg=dict(filter_empty_gt=True)),
        rf"{KEY}\.filter_cfg {{'filter_empty_gt': True}} leaves out all 3 images of \S+: annotate "
        r"them with the classes 'cat', 'dog', 'bird', or loosen it",
    ),
    'small images, filtered': (
        coco(), dict(filter_cfg=dict(min_size=99)),
        rf"{KEY}\.filter_cfg {{'min_size': 99}} leaves out all 3 images of .+",
    ),
    'other classes, filtered': (
        coco(names=('cell', 'wall')), dict(filter_cfg=dict(filter_empty_gt=True)),
        rf"{KEY}\.metainfo\.classes: 'cat', 'dog', 'bird' match no category of \S+/train\.json, "
        r"which has 'cell', 'wall': fix the names",
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', EMPTY)
@pytest.mark.parametrize('packed', [True, False], ids=['packed', 'unpacked'])
def test_empty_detection_set_is_refused_before_a_sampler_looks_for_its_first_image(
    case, packed, tmp_path, boxes
):
    content, options, message = EMPTY[case]
    dataset = box_dataset(boxes(tmp_path, content), serialize_data=packed, **options)
    fails(config(tmp_path / 'work', dataset), message)


def test_empty_set_inside_a_wrapper_is_named(tmp_path, boxes):
    root = boxes(tmp_path, without(coco(), 'images', 'annotations'))
    repeated = dict(type='RepeatDataset', times=2, dataset=box_dataset(root))
    parts = [box_dataset(root, 'val'), repeated]
    fails(
        config(tmp_path / 'work', dict(type='ConcatDataset', datasets=parts)),
        rf'{KEY}\.datasets\.1\.dataset: ann_file \S+/train\.json lists no images: .+',
    )


def test_folder_without_images_of_the_suffix(tmp_path):
    root = write_segmentation(tmp_path)
    fails(
        config(tmp_path / 'work', seg_dataset(root, img_suffix='.tif')),
        rf"{KEY}: \S+/img_dir/train holds no file that ends in '\.tif', there are '\.jpg': fix .+",
    )


def test_list_file_without_images(tmp_path):
    (tmp_path / 'train.txt').write_text('')
    dataset = seg_dataset(write_segmentation(tmp_path), ann_file='train.txt')
    fails(config(tmp_path, dataset), rf'{KEY}: ann_file \S+/train\.txt lists no images: .+')


BROKEN = {
    'empty annotations': (
        without(coco(), 'annotations'), {}, rf'{KEY}\.ann_file \S+ has no usable box in any of 3 .+'
    ),
    'no JSON': ('{"images": [', {}, r'config: train_dataloader\.dataset .+: JSONDecodeError: .+'),
    'not COCO': ({}, {}, r"config: train_dataloader\.dataset .+: KeyError: 'categories' .+"),
    'one class misspelt': (
        coco(names=('cat', 'dgo', 'bird')), {},
        rf"{KEY}\.metainfo\.classes: 'dog' match no category of \S+, which has 'cat', 'dgo', .+",
    ),
    'another order': (
        coco(names=('dog', 'cat', 'bird')), {},
        rf"{KEY}\.metainfo\.classes 'cat', 'dog', 'bird' are in another order .+: "
        r"set \('dog', 'cat', 'bird'\)",
    ),
    'a string for a list': (
        coco(names=('cat',)), dict(metainfo=dict(classes='cat')),
        rf"{KEY}\.metainfo\.classes 'cat' is no list of names: write \('cat',\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BROKEN)
def test_annotation_file_that_does_not_fit(case, tmp_path, boxes):
    content, options, message = BROKEN[case]
    dataset = box_dataset(boxes(tmp_path, content), **options)
    fails(config(tmp_path / 'work', dataset), message)


def test_validation_data_are_checked_before_training(tmp_path):
    root = write_segmentation(tmp_path)
    (root / 'ann_dir' / 'val' / '1.png').unlink()
    runner = build_runner(config(tmp_path / 'work', seg_dataset(root), seg_dataset(root, 'val')))
    said = r'^val_dataloader\.dataset: 1 of 3 masks do not exist, the first is \S+/val/1\.png: .+'
    with pytest.raises(UserError, match=said):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('name', ['val', 'test'])
def test_run_without_training_checks_its_own_data(name, tmp_path, boxes):
    root = boxes(tmp_path)
    (root / 'images' / '2.jpg').unlink()
    cfg = config(tmp_path / 'work', box_dataset(root), box_dataset(root, 'val'))
    said = rf'^{name}_dataloader\.dataset: 1 of 3 images do not exist, the first is \S+/2\.jpg: .+'
    with pytest.raises(UserError, match=said):
        getattr(build_runner(cfg), name)()


def test_test_images_without_annotations_can_be_predicted_but_not_scored(tmp_path, boxes):
    root = boxes(tmp_path)
    (root / 'val.json').write_text(json.dumps(without(coco(), 'annotations')))
    cfg = config(tmp_path / 'work', box_dataset(root), box_dataset(root, 'val'))
    with pytest.raises(UserError, match=r'^test_dataloader\.dataset\.ann_file \S+ has no usable'):
        build_runner(cfg).test()
    cfg = config(tmp_path / 'work', box_dataset(root), box_dataset(root, 'val'))
    cfg.test_evaluator = dict(type='Nothing', format_only=True)
    assert build_runner(cfg).test() == {'images': 3}


def test_what_is_left_out_is_said(tmp_path, boxes):
    content = coco(count=5, names=(*NAMES, 'fish'))  # image 3 shows a fish
    dataset = box_dataset(boxes(tmp_path, content, count=5), filter_cfg=dict(filter_empty_gt=True))
    runner = build_runner(config(tmp_path / 'work', dataset))
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    text = log.read_text()
    assert re.search(rf'{KEY}: filter_cfg left out 1 of 5 images\n', text)
    assert re.search(rf"{KEY}: the categories 'fish' of \S+/train\.json are in no class\n", text)


def test_of_many_images_an_even_sample_is_looked_up(tmp_path, monkeypatch):
    dataset = DATASETS.build(seg_dataset(write_segmentation(tmp_path, count=9)))
    (tmp_path / 'img_dir' / 'train' / '1.jpg').unlink()
    monkeypatch.setattr(datasets, 'MAX_FILES', 3)
    assert check_dataset('train', dataset) == [], 'images 0, 4 and 8 exist'
    (tmp_path / 'img_dir' / 'train' / '8.jpg').unlink()
    with pytest.raises(UserError, match=r'^train: 1 of 3 images do not exist, .+8\.jpg'):
        check_dataset('train', dataset)


def test_other_processes_raise_what_one_has_found(tmp_path, monkeypatch):
    """Files may be missing on one machine only; the others must not wait for it for ever."""
    other = data_hook.Outcome(refusal='gone on rank 1')
    monkeypatch.setattr(data_hook, 'all_gather_object', lambda mine: [mine, other])
    root = write_segmentation(tmp_path)
    fails(config(tmp_path / 'work', seg_dataset(root)), 'gone on rank 1')


def test_other_processes_hear_of_an_error_that_nobody_expected(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(data_hook, 'all_gather_object', lambda mine: told.append(mine) or told)
    dataset = seg_dataset(write_segmentation(tmp_path))

    def check(*_) -> None:
        raise ZeroDivisionError('of rank 0')

    monkeypatch.setattr(data_hook, 'check_dataset', check)
    with pytest.raises(UserError, match=r'ZeroDivisionError: of rank 0 '):
        build_runner(config(tmp_path / 'work', dataset)).train()
    assert told[-1].failure == 'ZeroDivisionError: of rank 0'
    told.pop(0)  # what is left came from another process
    monkeypatch.setattr(data_hook, 'check_dataset', lambda *_: [])
    with pytest.raises(UserError, match=r'another process .+: ZeroDivisionError: of rank 0 '):
        build_runner(config(tmp_path / 'again', dataset)).train()


def test_annotation_file_is_read_by_the_first_process_for_all(tmp_path, boxes, monkeypatch):
    dataset = box_dataset(boxes(tmp_path))
    of_rank_0 = Categories(3, {1: 'dog', 2: 'cat', 3: 'bird'})
    gathered = [data_hook.Outcome([of_rank_0])]
    monkeypatch.setattr(data_hook, 'is_main_process', lambda: False)
    monkeypatch.setattr(data_hook, 'all_gather_object', lambda mine: [*gathered, mine])
    monkeypatch.setattr(data_hook, 'read_categories', lambda dataset: pytest.fail('read again'))
    with pytest.raises(UserError, match=rf'^{KEY}\.metainfo\.classes .+ another order'):
        build_runner(config(tmp_path / 'work', dataset)).train()


def test_a_set_that_is_cut_short_is_checked_as_a_whole(tmp_path, boxes):
    """As for --dry-run: the first image without a box, one left out."""
    content = coco(count=4)
    content['annotations'] = content['annotations'][1:3]
    root = boxes(tmp_path, content, count=4)
    (root / 'val.json').write_text(json.dumps(content))
    chosen = dict(filter_cfg=dict(filter_empty_gt=True))
    cfg = config(tmp_path / 'work', box_dataset(root, **chosen), box_dataset(root, 'val'))
    cfg.train_dataloader.num_batch_per_epoch = cfg.val_dataloader.num_batch_per_epoch = 1
    runner = build_runner(cfg)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    assert f'{KEY}: filter_cfg left out 2 of 4 images'.replace('\\', '') in log.read_text()
    assert len(runner.val_dataloader.dataset) == 1
    none = box_dataset(root, filter_cfg=dict(min_size=99), serialize_data=False)
    cfg = config(tmp_path / 'none', none)
    cfg.train_dataloader.num_batch_per_epoch = 1
    fails(cfg, '.+ leaves out all 4 images .+')


def test_a_cut_longer_than_the_set_is_no_cut(tmp_path):
    root = write_segmentation(tmp_path)
    cfg = config(tmp_path / 'work', seg_dataset(root), seg_dataset(root, 'val'))
    cfg.test_dataloader.update(batch_size=8, num_batch_per_epoch=1)
    assert build_runner(cfg).test() == {'images': 3}


def test_an_infinite_sampler_goes_round_where_a_batch_is_larger_than_the_set(tmp_path):
    cfg = config(tmp_path / 'work', seg_dataset(write_segmentation(tmp_path)))
    cfg.train_dataloader.update(batch_size=4, drop_last=True)
    assert len(next(iter(build_runner(cfg).build_dataloader(cfg.train_dataloader)))) > 0
    cfg.train_dataloader.sampler = dict(type='DefaultSampler')
    with pytest.raises(UserError, match='batch_size 4 is more than the 3 images'):
        build_runner(cfg).build_dataloader(cfg.train_dataloader)


def test_error_reaches_the_user_as_one_line(tmp_path, capsys):
    root = write_segmentation(tmp_path)
    cfg = config(tmp_path / 'work', seg_dataset(root, img_suffix='.tif'))
    with pytest.raises(SystemExit), one_line_errors('train.py'):
        build_runner(cfg).train()
    assert capsys.readouterr().err.splitlines()[-1].startswith('train.py: error: train_dataloader')
