"""The list-based data sets: layouts, class numbers and names, and what is wrong with a list."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hstpeft.datasets import FGVC, VTAB1k
from hstpeft.errors import UserError

PIPELINE = [
    dict(type='mmpretrain.LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='mmpretrain.PackInputs'),
]


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((5 + number, 7, 3), (10 * number, 20, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def vtab(tmp_path) -> Path:
    write_images(tmp_path, ['images/train/0.png', 'images/train/one more.png', 'images/test/2.png'])
    (tmp_path / 'train.txt').write_text('images/train/0.png 0\nimages/train/one more.png 2\n')
    (tmp_path / 'test.txt').write_text('images/test/2.png 1\n')
    return tmp_path


def make(root: Path, ann_file: str = 'train.txt', kind: type = VTAB1k, **options):
    options = {'num_classes': 3, 'pipeline': PIPELINE, **options}
    return kind(data_root=str(root), ann_file=ann_file, **options)


def test_vtab_reads_paths_with_spaces(vtab):
    dataset = make(vtab)
    assert dataset.get_gt_labels().tolist() == [0, 2]
    assert dataset.get_data_info(1)['img_path'] == str(vtab / 'images/train/one more.png')
    sample = make(vtab, 'test.txt', test_mode=True)[0]
    assert sample['inputs'].shape == (3, 7, 7)
    assert sample['data_samples'].gt_label.tolist() == [1]
    # BGR, as every image of the hosts.
    assert make(vtab)[1]['inputs'][:, 0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize(
    ('text', 'classes'), [('a\nb\nc\n', ('a', 'b', 'c')), ('a\nb\n', None), (None, None)]
)
def test_class_names_come_from_classes_txt_when_they_fit(vtab, text, classes):
    if text:
        (vtab / 'classes.txt').write_text(text)
    assert make(vtab).metainfo.get('classes') == classes


def test_class_names_of_the_config_win(vtab):
    (vtab / 'classes.txt').write_text('a\nb\nc\n')
    assert make(vtab, metainfo=dict(classes=('x', 'y', 'z'))).metainfo['classes'] == ('x', 'y', 'z')


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('', r'ann_file \S+train\.txt lists no images'),
        ('images/a.png 0\n\n', r"line 2 of \S+train\.txt is '': it must be '<image path> <label>'"),
        ('images/a.png\n', r"line 1 of \S+train\.txt is 'images/a\.png'"),
        ('images/a.png x\n', r"line 1 of \S+train\.txt is 'images/a\.png x'"),
        ('images/a.png -1\n', r"line 1 of \S+train\.txt is 'images/a\.png -1'"),
        ('images/a.png 1.5\n', r'the label being a whole number'),
    ],
)
def test_a_broken_list_is_named_by_line(vtab, lines, message):
    (vtab / 'train.txt').write_text(lines)
    with pytest.raises(UserError, match=message):
        make(vtab)


def test_missing_places_are_named(vtab):
    with pytest.raises(UserError, match=r'data_root \S+nowhere does not exist'):
        make(vtab / 'nowhere')
    with pytest.raises(UserError, match=r'ann_file \S+val\.txt does not exist'):
        make(vtab, 'val.txt')
    with pytest.raises(UserError, match=r"on_bad_image 'ignore' is unknown"):
        make(vtab, on_bad_image='ignore')
    with pytest.raises(UserError, match=r'max_bad_share 1\.5 must be from 0'):
        make(vtab, on_bad_image='skip', max_bad_share=1.5)


def test_a_mistake_in_the_pipeline_is_not_blamed_on_the_image(vtab):
    def mistaken(results: dict) -> dict:
        raise ValueError('a mistake of the pipeline')

    dataset = make(vtab, pipeline=[PIPELINE[0], mistaken])
    with pytest.raises(ValueError, match=r'^a mistake of the pipeline$'):
        dataset[0]


@pytest.fixture
def fgvc(tmp_path) -> Path:
    splits = {
        'train': {'a/1.png': '7', 'b/2.png': '1000', 'a/3.png': '7', 'c/4.png': '30'},
        'test': {'b/5.png': '1000', 'c/6.png': '30'},
    }
    for name, split in splits.items():
        (tmp_path / f'{name}.json').write_text(json.dumps(split))
    write_images(tmp_path / 'images', [name for split in splits.values() for name in split])
    return tmp_path


def test_fgvc_numbers_classes_with_gaps_as_numbers(fgvc):
    options = dict(kind=FGVC, image_folder='images')
    assert make(fgvc, 'train.json', **options).get_gt_labels().tolist() == [0, 2, 0, 1]
    test = make(fgvc, 'test.json', test_mode=True, **options)
    assert test.get_gt_labels().tolist() == [2, 1]
    assert test[0]['inputs'].shape == (3, 9, 7)


def test_fgvc_refuses_what_does_not_fit(fgvc):
    options = dict(kind=FGVC, image_folder='images')
    with pytest.raises(
        UserError, match=r'label 2 of images/b/2\.png \(entry b/2\.png of train\.json\)'
    ):
        make(fgvc, 'train.json', **{**options, 'num_classes': 2})
    (fgvc / 'test.json').write_text('{"b/5.png": 8}')
    with pytest.raises(
        UserError, match=r'class 8 of b/5\.png in \S+test\.json is not in train\.json'
    ):
        make(fgvc, 'test.json', **options)
    for text in ('[1, 2]', '{"b/5.png": "cat"}', '{"b/5.png": null}', 'not JSON'):
        (fgvc / 'test.json').write_text(text)
        with pytest.raises(UserError, match=r'test\.json is not a JSON object of image paths'):
            make(fgvc, 'test.json', **options)
    (fgvc / 'train.json').unlink()
    with pytest.raises(UserError, match=r'train\.json does not exist'):
        make(fgvc, 'test.json', **options)
