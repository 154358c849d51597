"""Other means and deviations than the trunk's weights expect: one warning, and no more."""

import pytest
from mmengine.registry import MODELS
from torch import nn

from hstpeft.apis import init_model
from hstpeft.compat import close_loggers
from hstpeft.engine.checks.img_norm import check_img_norm
from tests.support import tiny
from tests.support.models import backbone_config, trunk_config

GREY = dict(mean=[127.5] * 3, std=[127.5] * 3)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
EXPECTED = 'usually expect mean=[127.5, 127.5, 127.5] and std=[127.5, 127.5, 127.5] (of 0..255): '
HOSTS = {
    'mmpretrain': 'ClsDataPreprocessor',
    'mmseg': 'SegDataPreProcessor',
    'mmdet': 'DetDataPreprocessor',
}


@pytest.fixture(scope='module')
def backbone():
    return MODELS.build(backbone_config())


def warnings(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if 'data_preprocessor' in line]


def said_of(preprocessor: dict, backbone: nn.Module, capsys) -> list[str]:
    model = nn.Module()
    model.backbone, model.data_preprocessor = backbone, MODELS.build(preprocessor)
    check_img_norm(model)
    return warnings(capsys)


@pytest.mark.parametrize('host', HOSTS)
def test_preprocessors_of_the_hosts(host, backbone, capsys):
    pytest.importorskip(f'{host}.models', exc_type=ImportError)
    kind = f'{host}.{HOSTS[host]}'
    assert said_of(dict(type=kind, **GREY), backbone, capsys) == []
    (line,) = said_of(dict(type=kind, **IMAGENET), backbone, capsys)
    assert 'has mean=[123.675, 116.28, 103.53] and std=[58.395, 57.12, 57.375], but' in line
    assert EXPECTED in line
    (line,) = said_of(dict(type=kind), backbone, capsys)
    assert 'model.data_preprocessor has no mean and std, but' in line


@pytest.mark.parametrize(
    ('values', 'count'),
    [
        (dict(mean=[127.5], std=[127.5]), 0),
        (dict(mean=[127.4, 127.5, 127.6], std=[127.5] * 3), 0),
        (dict(mean=[127.5] * 3, std=[127.5, 127.5, 126.5]), 1),
        (dict(mean=[0.5] * 3, std=[0.5] * 3), 1),
    ],
)
def test_what_counts_as_another_value(values, count, backbone, capsys):
    assert len(said_of(dict(type='ImgDataPreprocessor', **values), backbone, capsys)) == count


def test_nothing_is_said_where_nothing_is_known(capsys):
    preprocessor = dict(type='ImgDataPreprocessor', **IMAGENET)
    random = MODELS.build(backbone_config(trunk_config(None)))
    assert said_of(preprocessor, random, capsys) == []
    assert said_of(preprocessor, nn.Conv2d(3, 8, 1), capsys) == []
    check_img_norm(nn.Module())


def test_a_run_and_the_api_say_it_once(task, tmp_path, capsys):
    options = {f'model.data_preprocessor.{key}': value for key, value in IMAGENET.items()}
    flags = [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
    work_dir = tiny.train(task.hst, tmp_path, '--dry-run', options=flags)
    (log,) = work_dir.glob('*/*.log')
    lines = [line for line in log.read_text().splitlines() if EXPECTED in line]
    assert len(lines) == 1 and ' WARNING - ' in lines[0]
    close_loggers()  # one logger says no warning twice
    capsys.readouterr()
    init_model(task.hst, device='cpu', cfg_options=options)
    assert len(warnings(capsys)) == 1
    init_model(task.hst, device='cpu')
    assert warnings(capsys) == []
