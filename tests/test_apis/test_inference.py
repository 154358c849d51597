"""hstpeft.apis.inference, and the host's own ways to the same scores."""

import mmcv
import mmpretrain.apis
import numpy as np
import pytest
import torch
from mmpretrain.apis import ImageClassificationInferencer

from hstpeft.apis import inference, init_model
from hstpeft.errors import UserError
from tests.support import tiny


@pytest.fixture(scope='module')
def model(trained):
    return init_model(trained.task.hst, trained.delta, 'cpu')


@pytest.fixture(scope='module')
def folder(trained):
    return trained.task.data / 'images' / 'test'


def scores(results: list[dict]) -> np.ndarray:
    return np.array([result['pred_scores'] for result in results])


def test_a_file_is_classified(model, folder):
    (result,) = inference(model, folder / '000000.png')
    assert result['source'] == str(folder / '000000.png')
    assert sum(result['pred_scores']) == pytest.approx(1)
    assert result['pred_score'] == max(result['pred_scores'])
    assert result['pred_scores'][result['pred_label']] == result['pred_score']
    assert result['pred_class'] == tiny.CLASSES[result['pred_label']]


def test_a_folder_is_classified_in_the_order_of_its_names(model, folder):
    results = inference(model, folder)
    assert [result['source'] for result in results] == sorted(map(str, folder.iterdir()))
    one_by_one = [inference(model, path)[0] for path in sorted(folder.iterdir())]
    np.testing.assert_allclose(scores(results), scores(one_by_one), atol=1e-6)


def test_the_batch_size_does_not_change_the_result(model, folder, capsys):
    batches = inference(model, folder, batch_size=4)
    assert 'inference' in capsys.readouterr().out, 'several batches show a progress bar'
    quiet = inference(model, str(folder), batch_size=1, show_progress=False)
    assert 'inference' not in capsys.readouterr().out
    assert len(batches) == len(quiet) == 9
    np.testing.assert_allclose(scores(batches), scores(quiet), atol=1e-6)


def test_arrays_and_lists_mix(model, folder):
    paths = sorted(folder.iterdir())[:2]
    array = mmcv.imread(paths[0])
    results = inference(model, [array, str(paths[1]), paths[0]])
    assert [result['source'] for result in results] == ['array', str(paths[1]), str(paths[0])]
    assert np.array_equal(scores(results)[0], scores(results)[2])
    assert not np.array_equal(scores(results)[0], scores(results)[1])
    (alone,) = inference(model, array)
    np.testing.assert_allclose(alone['pred_scores'], results[0]['pred_scores'], atol=1e-6)


def test_images_of_any_shape(model, folder):
    wide = np.random.default_rng(0).integers(0, 255, (45, 100, 3), dtype=np.uint8)
    (result,) = inference(model, wide)
    assert np.isfinite(result['pred_scores']).all()


def test_bad_inputs_are_named(model, tmp_path):
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty').mkdir()
    for inputs, message in (
        (tmp_path / 'nowhere.png', r'image \S+nowhere\.png does not exist'),
        (tmp_path / 'text.png', r'image \S+text\.png cannot be decoded'),
        (tmp_path / 'empty', r'folder \S+empty holds no images'),
        (np.zeros((32, 32)), r'an image array must be \(H, W, 3\), got \(32, 32\)'),
        (np.zeros((4, 4, 3), np.uint8), r'an image of 4 x 4 pixels is smaller than a patch'),
    ):
        with pytest.raises(UserError, match=message):
            inference(model, inputs)


def test_the_inferencer_of_mmpretrain_gives_the_same_scores(trained, model, folder):
    path = sorted(folder.iterdir())[0]
    (expected,) = inference(model, path)
    inferencer = ImageClassificationInferencer(
        str(trained.task.hst), pretrained=str(trained.delta), device='cpu'
    )
    (result,) = inferencer(str(path))
    assert result['pred_scores'].tolist() == expected['pred_scores']
    (ours,) = ImageClassificationInferencer(model)(str(path))
    assert ours['pred_scores'].tolist() == expected['pred_scores']
    assert ours['pred_class'] == expected['pred_class']


@pytest.mark.parametrize('function', ['init_model', 'get_model'])
def test_models_of_mmpretrain_give_the_same_logits(trained, model, function):
    build = getattr(mmpretrain.apis, function)
    other = build(str(trained.task.hst), str(trained.delta), device='cpu').eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert other(image, mode='tensor').equal(model(image, mode='tensor'))


@pytest.mark.parametrize('function', ['init_model', 'get_model'])
def test_models_of_mmpretrain_refuse_another_trunk(trained, tmp_path, function):
    other = tiny.make_task(tmp_path, seed=1)
    with pytest.raises(UserError, match='made on the trunk'):
        getattr(mmpretrain.apis, function)(str(other.hst), str(trained.delta), device='cpu')
