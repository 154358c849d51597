"""The stand-ins and drawn folders through the hosts' own data set classes and loading transforms."""

import json

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile

from hstpeft.datasets.drawn.dense_folders import write_coco_folder, write_segmentation_folder
from hstpeft.datasets.drawn.dense_scenes import draw_dense_scene
from hstpeft.datasets.drawn.stand_ins import STAND_INS, write_stand_in

pytestmark = pytest.mark.host
SIZE = (64, 80)
SEED = 3


@pytest.fixture(scope='module')
def mmseg_datasets():
    return pytest.importorskip('mmseg.datasets', exc_type=ImportError)


@pytest.fixture(scope='module')
def mmdet_datasets():
    """Needs mmcv's compiled operators."""
    return pytest.importorskip('mmdet.datasets', exc_type=ImportError)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stand_ins')
    for layout in STAND_INS:
        write_stand_in(layout, folder / layout, 3, 2, SIZE, SEED)
    return folder


def expected_scene(layout, split, index):
    stand_in = STAND_INS[layout]
    seed = SEED + stand_in.splits.index(split)
    return draw_dense_scene(seed, index, SIZE, stand_in.layout.num_classes, stand_in.num_objects)


def segmentation(name, root, images, maps, mmseg_datasets, **options):
    """A data set of mmseg that loads images and maps."""
    return getattr(mmseg_datasets, name)(
        data_root=str(root),
        data_prefix=dict(img_path=images, seg_map_path=maps),
        pipeline=[LoadImageFromFile(), mmseg_datasets.LoadAnnotations()],
        **options,
    )


CAMVID = [f'class {index}' for index in range(11)]
MAPS = [
    ('ade20k', 'ADE20KDataset', 'images/{}', 'annotations/{}', {}),
    ('cityscapes', 'CityscapesDataset', 'leftImg8bit/{}', 'gtFine/{}', {}),
    ('camvid', 'BaseSegDataset', 'img_dir/{}', 'ann_dir/{}', dict(metainfo=dict(classes=CAMVID))),
]


@pytest.mark.parametrize(('layout', 'name', 'images', 'maps', 'options'), MAPS)
def test_mmseg_loads(layout, name, images, maps, options, roots, mmseg_datasets):
    for split in STAND_INS[layout].splits:
        data = segmentation(
            name,
            roots / layout,
            images.format(split),
            maps.format(split),
            mmseg_datasets,
            **options,
        )
        assert len(data) == (3 if split.startswith('train') else 2)
        num_classes = len(data.metainfo['classes'])
        assert STAND_INS[layout].layout.num_classes == num_classes - 1
        for index in range(len(data)):
            loaded, scene = data[index], expected_scene(layout, split, index)
            assert loaded['img'].shape == (*SIZE, 3)
            # The ground is class 0, so a scene's labels are what mmseg must see; void below.
            void = 11 if layout == 'camvid' else 255
            assert np.array_equal(loaded['gt_seg_map'][:-4], scene.labels[:-4])
            assert (loaded['gt_seg_map'][-4:] == void).all()


def test_mmseg_loads_a_drawn_folder(tmp_path, mmseg_datasets):
    root = write_segmentation_folder(tmp_path, 2, 1, 1, size=(40, 57))
    classes = (root / 'classes.txt').read_text().splitlines()
    options = dict(metainfo=dict(classes=classes), img_suffix='.png')
    data = segmentation(
        'BaseSegDataset', root, 'img_dir/train', 'ann_dir/train', mmseg_datasets, **options
    )
    assert len(data) == 2
    for index in range(2):
        labels = draw_dense_scene(0, index, (40, 57)).labels
        assert np.array_equal(data[index]['gt_seg_map'], labels)


def detection(root, annotations, images, mmdet_datasets, with_mask=True, **options):
    """A data set of mmdet that loads images, boxes and masks."""
    load = mmdet_datasets.transforms.LoadAnnotations(with_bbox=True, with_mask=with_mask)
    return mmdet_datasets.CocoDataset(
        data_root=str(root),
        ann_file=annotations,
        data_prefix=dict(img=images),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[LoadImageFromFile(), load],
        **options,
    )


def assert_shows(loaded, instances, with_mask):
    """What mmdet loaded is what was drawn."""
    boxes = np.array([instance.box for instance in instances])
    boxes[:, 2:] += boxes[:, :2]  # to two corners
    assert np.array_equal(loaded['gt_bboxes'].numpy(), boxes)
    assert loaded['gt_bboxes_labels'].tolist() == [instance.label - 1 for instance in instances]
    assert not loaded['gt_ignore_flags'].any()
    if with_mask:
        masks = np.stack([instance.mask for instance in instances])
        assert np.array_equal(loaded['gt_masks'].masks.astype(bool), masks)


COCO = [
    ('coco', None, 'annotations/instances_{}2017.json', '{}2017'),
    ('bccd', ('RBC', 'WBC', 'Platelets'), 'annotations/{}.json', '{}'),
    ('dsb2018', ('nucleus',), 'annotations/{}.json', '{}'),
]


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize(('layout', 'classes', 'annotations', 'images'), COCO)
def test_mmdet_loads(layout, classes, annotations, images, roots, mmdet_datasets):
    options = {} if classes is None else dict(metainfo=dict(classes=classes))
    with_mask = layout != 'bccd'
    for split in STAND_INS[layout].splits:
        paths = annotations.format(split), images.format(split)
        data = detection(roots / layout, *paths, mmdet_datasets, with_mask, **options)
        assert len(data) == (3 if split == 'train' else 2)
        assert len(data.cat_ids) == len(data.metainfo['classes'])
        for index in range(len(data)):
            loaded = data[index]
            assert loaded['img'].shape == (*SIZE, 3)
            instances = expected_scene(layout, split, index).instances
            assert_shows(loaded, instances, with_mask)


def test_the_categories_are_those_of_mmdet(roots, mmdet_datasets):
    content = json.loads((roots / 'coco/annotations/instances_val2017.json').read_text())
    names = [category['name'] for category in content['categories']]
    assert names == list(mmdet_datasets.CocoDataset.METAINFO['classes'])
    ids = {category['name']: category['id'] for category in content['categories']}
    # COCO's ids have ten gaps; these names stand before, between and after them.
    assert (ids['fire hydrant'], ids['stop sign'], ids['umbrella'], ids['handbag']) == (
        11,
        13,
        28,
        31,
    )
    assert (ids['dining table'], ids['toilet'], ids['tv'], ids['book']) == (67, 70, 72, 84)
    assert (ids['wine glass'], ids['toothbrush']) == (46, 90)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_mmdet_loads_a_drawn_folder(tmp_path, mmdet_datasets):
    root = write_coco_folder(tmp_path, 2, 1, 1, size=(40, 57))
    names = [
        c['name'] for c in json.loads((root / 'annotations/val.json').read_text())['categories']
    ]
    options = dict(metainfo=dict(classes=names))
    data = detection(root, 'annotations/train.json', 'train', mmdet_datasets, **options)
    assert len(data) == 2
    for index in range(2):
        assert_shows(data[index], draw_dense_scene(0, index, (40, 57)).instances, True)
