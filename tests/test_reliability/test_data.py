"""D1 and D2: images that are damaged, huge, or of an unusual kind, and lists with mistakes."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile as MmcvLoad
from PIL import Image

from hstpeft.apis import inference, init_model
from hstpeft.datasets import VTAB1k
from hstpeft.datasets.loading import LoadImageFromFile, read_image
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError, one_line_errors
from tests.support import tiny
from tests.support.dense_data import box_dataset, config, seg_dataset, write_boxes
from tests.support.dense_data import write_segmentation as write_masks

SIDE = 16
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (SIDE, SIDE + 3, 3), dtype=np.uint8)
GRAY_16 = RNG.integers(0, 65536, (SIDE, SIDE + 3), dtype=np.uint16)
FLOATS = RNG.random((SIDE, SIDE + 3), dtype=np.float32)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter
BACKENDS = ('pillow', 'cv2', None)


def packed(image: Image.Image, kind: str = 'PNG', **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """Make a PNG that says how large it is, and has no pixel."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = (header, b'IDAT' + zlib.compress(b'\0'), b'IEND')
    body = b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in chunks
    )
    return b'\x89PNG\r\n\x1a\n' + body


def list_of(
    folder: Path, images: dict[str, bytes | None], text: str | None = None, **options: Any
) -> VTAB1k:
    """Write images and a list of them, labels 0, 1, 0, ...; read it as a data set."""
    for name, content in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    lines = ''.join(f'{name} {index % 2}\n' for index, name in enumerate(images))
    (folder / 'list.txt').write_text(lines if text is None else text, encoding='utf-8')
    load = dict(type='mmpretrain.LoadImageFromFile', imdecode_backend='pillow')
    options = {'pipeline': [load, dict(type='mmpretrain.PackInputs')], 'num_classes': 2, **options}
    return VTAB1k(data_root=str(folder), ann_file='list.txt', **options)


GOOD = packed(Image.fromarray(COLOUR))
JPEG = packed(Image.fromarray(COLOUR), 'JPEG')
REMEDY = "repair it, leave it out, or set on_bad_image='skip' of a data set of hstpeft$"
# What is wrong with a file, and what is said.
BAD = {
    'missing': (None, f'does not exist: {REMEDY}'),
    '0 bytes': (b'', rf'cannot be decoded \(.+\): {REMEDY}'),
    'truncated': (JPEG[:-200], rf'cannot be decoded \(.+\): {REMEDY}'),
    'truncated PNG': (GOOD[:-30], rf'cannot be decoded \(.+\): {REMEDY}'),
    'a page': (b'<html>not found</html>', rf'cannot be decoded \(.+\): {REMEDY}'),
    'floats': (packed(Image.fromarray(FLOATS), 'TIFF'), 'holds floats of 32 bits, of which .+'),
    'integers': (
        packed(Image.fromarray(GRAY_16.astype(np.int32)), 'TIFF'),
        'holds integers of 32 bits, of which nobody knows what is white: convert it to .+',
    ),
    '20k px': (
        png(20_000, 20_000),
        r'has 20000 x 20000 pixels, max_pixels=178956970 is the limit: shrink it, raise .+',
    ),
}  # fmt: skip


@pytest.mark.parametrize('backend', BACKENDS[:2])
@pytest.mark.parametrize('kind', BAD)
def test_D1_a_bad_image_is_named_when_it_is_met(tmp_path, kind, backend):
    content, said = BAD[kind]
    dataset = list_of(tmp_path, {'bad.img': content, 'good.png': GOOD})
    dataset.pipeline.transforms[0].imdecode_backend = backend
    with pytest.raises(UserError, match=rf'^image {tmp_path}/bad\.img {said}') as error:
        dataset[0]
    assert '\n' not in str(error.value)
    assert dataset[1]['inputs'].shape == (3, *COLOUR.shape[:2])


@pytest.mark.parametrize('kind', BAD)
def test_D1_bad_images_are_skipped_and_counted_when_asked(tmp_path, capsys, kind):
    images = {'bad.img': BAD[kind][0], **{f'{index}.png': GOOD for index in range(9)}}
    dataset = list_of(tmp_path, images, on_bad_image='skip')
    assert len(dataset) == 9 and [dataset[i]['inputs'].shape for i in range(9)]
    said = capsys.readouterr()
    path = tmp_path / 'bad.img'
    assert f'skipped 1 of 10 images of {tmp_path}/list.txt: {path}\n' in said.out + said.err


def test_D1_skipping_has_a_limit(tmp_path):
    images = {'a.png': b'', 'b.png': b'', **{f'{index}.png': GOOD for index in range(8)}}
    said = r'2 of 10 images of \S+list\.txt are bad, more than max_bad_share=0\.1 of them; '
    with pytest.raises(UserError, match=rf'^{said}the first: image \S+a\.png cannot be decoded'):
        list_of(tmp_path, images, on_bad_image='skip')
    assert len(list_of(tmp_path, images, on_bad_image='skip', max_bad_share=0.2)) == 8
    with pytest.raises(UserError, match=r'^2 of 2 images .+ more than max_bad_share=0\.99'):
        text = 'a.png 0\nb.png 1\n'
        list_of(tmp_path, images, text, on_bad_image='skip', max_bad_share=0.99)


def test_D1_a_run_skips_bad_images_and_counts_them(tmp_path, capsys):
    task = tiny.make_task(tmp_path / 'task')
    folder = task.data / 'images' / 'train'
    broken, missing = folder / '000003.png', folder / '000005.png'
    broken.write_bytes(broken.read_bytes()[:-100])
    missing.unlink()
    options = ['train_dataloader.dataset.on_bad_image=skip', 'train_cfg.max_epochs=1']
    tiny.train(task.hst, tmp_path / 'work', options=options)
    said = [line for line in capsys.readouterr().out.splitlines() if 'INFO - skipped' in line]
    assert len(said) == 1
    assert f'skipped 2 of 24 images of {task.data}/train800val200.txt' in said[0]
    assert str(broken) in said[0] and str(missing) in said[0]
    assert tiny.load(tmp_path / 'work' / 'delta.pth')['meta']['iter'] == 22 // tiny.BATCH


def spoil(*paths: Path) -> Path:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-60])
    return paths[0].parent


def masks(folder: Path, spoilt: str) -> tuple[dict, str]:
    root = write_masks(folder)
    directory = spoil(*(root / spoilt / 'train').iterdir())
    steps = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
    return seg_dataset(root, pipeline=steps), rf'image {directory}/\d\.\w+ cannot be decoded'


def boxes(folder: Path) -> tuple[dict, str]:
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    directory = spoil(*(write_boxes(folder) / 'images').iterdir())
    steps = [dict(type='LoadImageFromFile')]
    return box_dataset(folder, pipeline=steps), rf'image {directory}/\d\.jpg cannot be decoded'


DENSE = {
    'image of mmseg': lambda folder: masks(folder, 'img_dir'),
    'mask of mmseg': lambda folder: masks(folder, 'ann_dir'),
    'image of mmdet': boxes,
}


@pytest.mark.parametrize(
    ('kind', 'workers'),
    [*((kind, 0) for kind in DENSE), pytest.param('mask of mmseg', 1, marks=pytest.mark.slow)],
)
def test_D1_a_bad_file_of_a_dense_host_is_one_line(tmp_path, capsys, kind, workers):
    """Before, cv2's None was an AssertionError without the file's name."""
    dataset, said = DENSE[kind](tmp_path / 'data')
    wrapped = dict(type='RepeatDataset', times=2, dataset=dataset)
    cfg = config(tmp_path / 'work', wrapped, workers=workers)
    with pytest.raises(SystemExit) as ending, one_line_errors('train.py'):
        build_runner(cfg).train()
    tiny.let_go(ending.value)
    assert ending.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf'train\.py: error: {said} \(.+\): {REMEDY}', line), line


def test_D1_a_mistake_of_a_dense_pipeline_is_not_blamed_on_the_mask(tmp_path):
    dataset = seg_dataset(write_masks(tmp_path / 'data'))
    for mistake, said in (
        (dict(reduce_zero_label=True), '^config: .*: AssertionError: .*reduce_zero_label'),
        (dict(imdecode_backend='pilow'), "^imdecode_backend 'pilow' is unknown: did you "),
    ):
        dataset['pipeline'] = [dict(type='mmseg.LoadAnnotations', **mistake)]
        with pytest.raises(UserError, match=said):
            build_runner(config(tmp_path / 'work', dataset)).train()


ORDINARY = {
    'PNG': GOOD,
    'JPEG': JPEG,
    'wrong extension': packed(Image.fromarray(COLOUR), 'BMP'),
    'CMYK': packed(Image.fromarray(COLOUR).convert('CMYK'), 'JPEG'),
    'grayscale': packed(Image.fromarray(COLOUR).convert('L')),
    '1 bit': packed(Image.fromarray(COLOUR).convert('1')),
    'palette': packed(Image.fromarray(COLOUR).convert('P')),
    'alpha': packed(Image.fromarray(COLOUR).convert('RGBA')),
    'gray and alpha': packed(Image.fromarray(COLOUR).convert('LA')),
    'EXIF-rotated': packed(Image.fromarray(COLOUR), 'JPEG', exif=EXIF),
    'WebP': packed(Image.fromarray(COLOUR), 'WEBP'),
    '1x1 px': packed(Image.fromarray(COLOUR[:1, :1])),
    '20k px wide': packed(Image.fromarray(np.zeros((1, 20_000), dtype=np.uint8))),
}


@pytest.mark.parametrize('color_type', ['color', 'grayscale', 'color_ignore_orientation'])
@pytest.mark.parametrize('backend', BACKENDS[:2])
@pytest.mark.parametrize('kind', ORDINARY)
def test_D2_an_ordinary_file_gives_the_bits_of_mmcv(tmp_path, kind, backend, color_type):
    path = tmp_path / 'image.png'
    path.write_bytes(ORDINARY[kind])
    options = dict(imdecode_backend=backend, color_type=color_type, to_float32=kind == 'JPEG')
    own, theirs = (
        load(**options)({'img_path': str(path)}) for load in (LoadImageFromFile, MmcvLoad)
    )
    assert own.keys() == theirs.keys()
    assert own['img'].dtype == theirs['img'].dtype and np.array_equal(own['img'], theirs['img'])
    shape = own['img_shape']
    assert shape == own['ori_shape'] == theirs['img_shape'] == theirs['ori_shape']
    turned = kind == 'EXIF-rotated' and color_type != 'color_ignore_orientation'
    assert not turned or shape == COLOUR.shape[1::-1]


SIXTEEN = {
    'PNG': packed(Image.fromarray(GRAY_16)),
    'TIFF': packed(Image.fromarray(GRAY_16), 'TIFF'),
    'JPEG 2000': packed(Image.fromarray(GRAY_16), 'JPEG2000'),
    'PGM': b'P5\n%d %d\n65535\n' % GRAY_16.shape[::-1] + GRAY_16.byteswap().tobytes(),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', SIXTEEN)
def test_D2_16_bits_are_read_by_their_high_byte_as_cv2_does(tmp_path, kind, backend):
    path = tmp_path / 'image'
    path.write_bytes(SIXTEEN[kind])
    image = read_image(str(path), 'color', backend)
    assert image.dtype == np.uint8 and np.array_equal(image, mmcv.imread(path, backend='cv2'))
    assert np.array_equal(image[..., 0], GRAY_16 >> 8)
    gray = read_image(str(path), 'grayscale', backend)
    assert np.array_equal(gray, GRAY_16 >> 8)
    dataset = list_of(tmp_path, {'image': None})
    assert np.array_equal(dataset[0]['inputs'].permute(1, 2, 0), image)


def test_D2_16_bits_are_white_without_it_NC(tmp_path):
    (tmp_path / 'image').write_bytes(SIXTEEN['PNG'])
    assert (mmcv.imread(tmp_path / 'image', backend='pillow') > 254).mean() > 0.99


def test_D2_turned_16_bits_stand_upright(tmp_path):
    (tmp_path / 'image').write_bytes(packed(Image.fromarray(GRAY_16), 'PNG', exif=EXIF))
    upright = (np.rot90(GRAY_16, -1) >> 8).astype(np.uint8)
    assert np.array_equal(read_image(str(tmp_path / 'image'))[..., 0], upright)
    lying = read_image(str(tmp_path / 'image'), 'color_ignore_orientation')
    assert np.array_equal(lying[..., 0], GRAY_16 >> 8)


def test_D2_whoever_asks_for_the_values_as_they_are_gets_them(tmp_path):
    (tmp_path / 'floats.tif').write_bytes(BAD['floats'][0])
    (tmp_path / 'image.png').write_bytes(SIXTEEN['PNG'])
    load = LoadImageFromFile(color_type='unchanged', imdecode_backend='pillow')
    assert np.array_equal(load({'img_path': str(tmp_path / 'floats.tif')})['img'], FLOATS)
    assert np.array_equal(load({'img_path': str(tmp_path / 'image.png')})['img'], GRAY_16)


def test_D2_the_limit_of_pixels_is_an_argument_and_leaves_PILs_own_alone(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    pixels = COLOUR.shape[0] * COLOUR.shape[1]
    said = rf'has {COLOUR.shape[1]} x {SIDE} pixels, max_pixels={pixels - 1} is the limit'
    assert len(list_of(tmp_path, {'a.png': GOOD}, max_pixels=pixels)[0]['inputs'])
    with pytest.raises(UserError, match=said):
        list_of(tmp_path, {'a.png': GOOD}, max_pixels=pixels - 1)[0]
    Image.MAX_IMAGE_PIXELS = 8
    try:
        assert len(list_of(tmp_path, {'a.png': GOOD})[0]['inputs'])
        with pytest.raises(Image.DecompressionBombError):
            MmcvLoad(imdecode_backend='pillow')({'img_path': str(tmp_path / 'a.png')})
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def test_D2_nothing_of_a_huge_image_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *_, **__: pytest.fail('decoded'))
    with pytest.raises(UserError, match='has 20000 x 20000 pixels'):
        list_of(tmp_path, {'a.png': png(20_000, 20_000)})[0]


def test_D2_what_ignores_empty_files_gets_another_image(tmp_path):
    load = dict(type='LoadImageFromFile', imdecode_backend='pillow', ignore_empty=True)
    pipeline = [load, dict(type='mmpretrain.PackInputs')]
    dataset = list_of(tmp_path, {'a.png': b'', 'b.png': GOOD}, pipeline=pipeline)
    assert dataset[0]['data_samples'].img_path == str(tmp_path / 'b.png')


def test_D2_non_ASCII_paths(tmp_path):
    folder = tmp_path / 'Bücher 本'
    dataset = list_of(folder, {'bilder/ü ñ 猫.png': GOOD, 'ы.png': b''})
    assert np.array_equal(dataset[0]['inputs'].permute(1, 2, 0), COLOUR[..., ::-1])
    with pytest.raises(UserError, match=r'^image \S+ 本/ы\.png cannot be decoded'):
        dataset[1]


# A list of a.png, b.png and c.png, and what is said.
LISTS = {
    'label out of range': (
        'a.png 0\nb.png 2\n', r'^label 2 of b\.png \(line 2 of list\.txt\) is outside 0\.\.1: .+',
    ),
    'duplicate file, two labels': (
        'a.png 0\nb.png 1\na.png 1\n',
        r'^a\.png has the label 0 \(line 1 of list\.txt\) and the label 1 \(line 3 of list\.txt\): ',
    ),
}  # fmt: skip


@pytest.mark.parametrize('kind', LISTS)
def test_D2_a_list_that_contradicts_itself_or_its_classes_is_refused(tmp_path, kind):
    text, said = LISTS[kind]
    with pytest.raises(UserError, match=said):
        list_of(tmp_path, dict.fromkeys(('a.png', 'b.png', 'c.png'), GOOD), text)


NOTES = {
    'duplicate file': ('a.png 0\nb.png 1\na.png 0\n', 'lists 1 images more than once'),
    'empty class': ('a.png 1\nb.png 1\n', 'lists no image of 1 classes: 0'),
}


@pytest.mark.parametrize('kind', NOTES)
def test_D2_what_may_be_meant_is_said_once_and_taken(tmp_path, capsys, kind):
    text, said = NOTES[kind]
    dataset = list_of(tmp_path, dict.fromkeys(('a.png', 'b.png'), GOOD), text)
    assert len(dataset) == len(text.splitlines())
    assert f'list.txt {said}\n' in ''.join(capsys.readouterr())
    list_of(tmp_path, dict.fromkeys(('a.png', 'b.png'), GOOD))
    assert 'lists' not in ''.join(capsys.readouterr())


def test_D2_an_empty_class_trains_and_is_scored(task, tmp_path):
    options = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'model.head.num_classes=4')
    classes = [f'{name}_dataloader.dataset.num_classes=4' for name in ('train', 'val')]
    work = tiny.train(task.linear, tmp_path / 'work', options=(*options, *classes))
    assert tiny.load(work / 'epoch_1.pth')['state_dict']['head.fc.bias'].shape == (4,)


@pytest.fixture(scope='module')
def model(trained: tiny.Run) -> Any:
    return init_model(trained.task.hst, trained.delta, 'cpu')


@pytest.mark.parametrize('kind', BAD)
def test_D1_inference_refuses_what_a_data_set_refuses(tmp_path, model, kind):
    content, said = BAD[kind]
    path = tmp_path / 'bad.img'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf'^image {path} {said}'):
        inference(model, path)


ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    'floats': lambda: np.zeros((32, 32, 3)),
    '16 bits': lambda: np.zeros((32, 32, 3), np.uint16),
}


@pytest.mark.parametrize('kind', ARRAYS)
def test_D2_inference_refuses_arrays_of_no_defined_range(model, kind):
    with pytest.raises(UserError, match=r'^an image array must be uint8, got '):
        inference(model, ARRAYS[kind]())


def test_D2_inference_reads_16_bits_as_8(tmp_path, model):
    pixels = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / '8.png')
    Image.fromarray(pixels.astype(np.uint16) * 256 + 7).save(tmp_path / '16.png')
    low, high = inference(model, [tmp_path / '8.png', tmp_path / '16.png'])
    assert low['pred_scores'] == high['pred_scores']
