"""tools/stand_ins.py: layouts, counts and values on disk, and its refusals."""

import json

import mmcv
import numpy as np
import pytest

from hstpeft.datasets.drawn.stand_ins import STAND_INS
from tools.stand_ins import main

SMALL = ['--size', '64', '80']
# Images of 4 training and 2 other images, first in training; the first image's map or json.
FILES = {
    'ade20k': (
        'images/training/ADE_training_00000001.jpg',
        'annotations/training/ADE_training_00000001.png',
    ),
    'cityscapes': (
        'leftImg8bit/train/drawn/drawn_000001_000019_leftImg8bit.png',
        'gtFine/train/drawn/drawn_000001_000019_gtFine_labelTrainIds.png',
    ),
    'camvid': ('img_dir/train/drawn_000001.jpg', 'ann_dir/train/drawn_000001.png'),
    'coco': ('train2017/000000000001.jpg', 'annotations/instances_train2017.json'),
    'bccd': ('train/drawn_00001.jpg', 'annotations/train.json'),
    'dsb2018': ('train/drawn_00001.png', 'annotations/train.json'),
}


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stand_ins')
    for layout in STAND_INS:
        main([layout, str(folder / layout), *SMALL])
    return folder


def values(root):
    """All values of the label maps of a stand-in."""
    maps = [
        file for file in root.rglob('*.png') if {'annotations', 'gtFine', 'ann_dir'} & {*file.parts}
    ]
    return {v for file in maps for v in np.unique(mmcv.imread(file, flag='unchanged')).tolist()}


@pytest.mark.parametrize('layout', STAND_INS)
def test_files_lie_where_the_data_set_has_them(layout, roots):
    image, annotation = FILES[layout]
    assert mmcv.imread(roots / layout / image).shape == (64, 80, 3)
    assert (roots / layout / annotation).is_file()
    images = [*(roots / layout).rglob(f'*{(roots / image).suffix}')]
    maps = [file for file in images if 'gtFine' in file.parts]
    expected = 4 + 2 * (len(STAND_INS[layout].splits) - 1)
    assert len(images) - len(maps) == expected


@pytest.mark.parametrize(
    ('layout', 'classes', 'void'),
    [('ade20k', range(1, 151), 0), ('cityscapes', range(19), 255), ('camvid', range(11), 11)],
)
def test_label_maps_hold_the_classes_and_void(layout, classes, void, roots):
    found = values(roots / layout)
    assert void in found and classes[0] in found
    assert len(found) > 5 and found <= {*classes, void}


def test_annotations_hold_what_the_real_ones_hold(roots):
    coco, bccd, dsb = (
        json.loads((roots / layout / FILES[layout][1]).read_text())
        for layout in ('coco', 'bccd', 'dsb2018')
    )
    assert [len(content['categories']) for content in (coco, bccd, dsb)] == [80, 3, 1]
    assert {(c['id'], c['name']) for c in coco['categories']} > {(1, 'person'), (90, 'toothbrush')}
    assert [c['name'] for c in bccd['categories']] == ['RBC', 'WBC', 'Platelets']
    assert dsb['categories'] == [dict(id=1, name='nucleus')]
    assert all(isinstance(a['segmentation'], list) for a in coco['annotations'])
    assert all(set(a['segmentation']) == {'size', 'counts'} for a in dsb['annotations'])
    for annotation in bccd['annotations']:
        assert 'segmentation' not in annotation
        assert annotation['area'] == annotation['bbox'][2] * annotation['bbox'][3]


def test_options_decide_numbers_seed_and_size(tmp_path, capsys):
    main(['bccd', str(tmp_path / 'a'), '--train', '2', '--val', '1', *SMALL, '--seed', '5'])
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path / "a"}: 2 drawn train images in the layout of bccd',
        f'{tmp_path / "a"}: 1 drawn val images in the layout of bccd',
        f'{tmp_path / "a"}: 1 drawn test images in the layout of bccd',
    ]
    main(['bccd', str(tmp_path / 'b'), '--train', '2', '--val', '1', *SMALL, '--seed', '5'])
    main(['bccd', str(tmp_path / 'c'), '--train', '2', '--val', '1', *SMALL])
    first, again, other = (
        (tmp_path / name / 'train/drawn_00001.jpg').read_bytes() for name in 'abc'
    )
    assert first == again != other


def test_without_a_size_images_have_the_typical_ones(tmp_path):
    main(['dsb2018', str(tmp_path / 'dsb'), '--train', '3', '--val', '1'])
    files = sorted((tmp_path / 'dsb/train').iterdir())
    assert [mmcv.imread(f).shape[:2] for f in files] == [(256, 256), (360, 360), (256, 320)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['ade', 'new'], "layout 'ade' has no stand-in: did you mean 'ade20k'?"),
        (['bccd', 'new', '--train', '0'], 'num_train 0 is too small'),
        (['bccd', 'new', '--val', '-1'], 'num_val -1 is too small'),
        (['bccd', 'new', '--size', '64', '8'], 'size 64 x 8 is too small'),
        (['bccd', 'new', '--seed', '-1'], 'seed -1 is negative'),
        (['bccd', '.'], 'is in use'),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / 'real.jpg').touch()
    with pytest.raises(SystemExit, match='1'):
        main([arguments[0], str(tmp_path / arguments[1]), *arguments[2:]])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('stand_ins.py: error: ') and message in line
    assert [file.name for file in tmp_path.iterdir()] == ['real.jpg']
