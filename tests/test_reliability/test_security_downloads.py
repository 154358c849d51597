"""S2, S8, S9, S10: what comes over a network is what was asked for, and runs nothing."""

import hashlib
import shutil
import ssl
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError
from hstpeft.fetch import check_file_name, download
from hstpeft.models.trunks import hub
from hstpeft.models.trunks.weights import read_weights
from tests.support import hostile, tiny, web

CONTENT = b'0123456789' * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FALSE = '0' * 64


@pytest.fixture(scope='module')
def certificate(tmp_path_factory) -> Path:
    return web.make_certificate(tmp_path_factory.mktemp('tls'))


@pytest.fixture
def context(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


@pytest.fixture
def trusting(certificate, monkeypatch, tmp_path) -> None:
    """Let this machine trust the server, and keep downloads in a folder of the test."""
    monkeypatch.setenv('SSL_CERT_FILE', str(certificate))
    monkeypatch.setenv('HSTPEFT_CACHE', str(tmp_path / 'cache'))


def test_S8_a_file_is_downloaded_once(tmp_path, certificate, context):
    with web.serve({'/a/file.pth': CONTENT}, certificate) as site:
        url = f'{site.address}/a/file.pth'
        for _ in range(2):
            path = download(url, tmp_path / 'new', SHA256.upper(), context=context)
        assert site.asked == ['/a/file.pth']
    assert path == tmp_path / 'new/file.pth'
    assert path.read_bytes() == CONTENT


def test_S8_a_mismatch_is_deleted_and_both_hashes_are_named(tmp_path, certificate, context):
    with (
        web.serve({'/file.pth': CONTENT}, certificate) as site,
        pytest.raises(UserError, match=f'was deleted: its sha256 is {SHA256}, not {FALSE}'),
    ):
        download(f'{site.address}/file.pth', tmp_path, FALSE, context=context)
    assert not list(tmp_path.iterdir())


def test_S8_what_was_there_is_replaced_only_by_the_right_file(tmp_path, certificate, context):
    (tmp_path / 'file.pth').write_bytes(b'old')
    with web.serve({'/file.pth': CONTENT}, certificate) as site:
        url = f'{site.address}/file.pth'
        with pytest.raises(UserError, match='not the file that is expected'):
            download(url, tmp_path, FALSE, context=context)
        assert (tmp_path / 'file.pth').read_bytes() == b'old'
        assert download(url, tmp_path, SHA256, context=context).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('path', 'options', 'message'),
    [
        ('/file.pth', dict(max_bytes=999), 'larger than 999 bytes'),
        ('/missing.pth', {}, 'failed: Not Found'),
        ('/cut.pth', {}, 'failed|broke off'),
    ],
)
def test_S8_nothing_is_left_of_a_failed_download(
    tmp_path, certificate, context, path, options, message
):
    pages = {'/file.pth': CONTENT, '/cut.pth': CONTENT}
    with (
        web.serve(pages, certificate, cut='cut' in path) as site,
        pytest.raises(UserError, match=message),
    ):
        download(site.address + path, tmp_path, SHA256, context=context, **options)
    assert not list(tmp_path.iterdir())


def test_S8_a_server_that_nobody_vouches_for_is_refused(tmp_path, certificate):
    with (
        web.serve({'/file.pth': CONTENT}, certificate) as site,
        pytest.raises(UserError, match='certificate verify failed'),
    ):
        download(f'{site.address}/file.pth', tmp_path, SHA256)


@pytest.mark.parametrize('sha256', ['', 'abc', 'g' * 64, FALSE + '0'])
def test_S8_what_is_no_hash_is_refused(tmp_path, sha256):
    with pytest.raises(UserError, match='64 hexadecimal digits'):
        download('https://127.0.0.1:1/a.pth', tmp_path, sha256)


def test_S9_http_is_not_even_asked(tmp_path):
    with web.serve({'/file.pth': CONTENT}) as site:
        with pytest.raises(UserError, match='only https:// addresses'):
            download(f'{site.address}/file.pth', tmp_path, SHA256)
        assert not site.asked
    for url in ('file:///etc/passwd', 'ftp://127.0.0.1/a', 'https:///a', 'a.pth'):
        with pytest.raises(UserError, match='only https:// addresses'):
            download(url, tmp_path, SHA256)


def test_S9_a_redirect_may_not_leave_https(tmp_path, certificate, context):
    with web.serve({'/file.pth': CONTENT}) as plain:
        pages = {'/a.pth': f'{plain.address}/file.pth', '/b.pth': '/c.pth', '/c.pth': CONTENT}
        with web.serve(pages, certificate) as site:
            with pytest.raises(UserError, match=r'leads to http://.*, no https'):
                download(f'{site.address}/a.pth', tmp_path, SHA256, context=context)
            assert (
                download(f'{site.address}/b.pth', tmp_path, SHA256, context=context).name == 'b.pth'
            )
        assert not plain.asked


@pytest.mark.parametrize(
    'name',
    ['../a', 'a/b', '/a', '..', '.', '.bashrc', '', 'a\\b', 'C:a', 'a\0b', 'a\nb', '\u202ea'],
)
def test_S10_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(UserError, match='must be a plain name'):
        check_file_name(name)
    if name:
        with pytest.raises(UserError, match='must be a plain name'):
            download('https://127.0.0.1:1/a.pth', tmp_path, SHA256, name=name)


@pytest.mark.parametrize('path', ['/', '/a/..%2f..%2fb', '/%2e%2e', '/.netrc'])
def test_S10_nor_may_the_address_name_a_path(tmp_path, path):
    with pytest.raises(UserError, match='must be a plain name'):
        download(f'https://127.0.0.1:1{path}', tmp_path, SHA256)


def load(url: str) -> object:
    """Load as a host does for `init_cfg`."""
    with safe_io():
        return CheckpointLoader.load_checkpoint(url, 'cpu')


@pytest.mark.parametrize('name', hostile.FILES)
def test_S2_no_download_runs_code(task, tmp_path, certificate, trusting, name):
    content = hostile.FILES[name](tmp_path / name, tmp_path).read_bytes()
    with web.serve({f'/{name}': content}, certificate) as site:
        url = f'{site.address}/{name}'
        for flag in ('--load-from', '--resume'):
            with pytest.raises(SystemExit, match='1'):
                tiny.train(task.hst, tmp_path / 'out', flag, url)
        if name == 'polyglot.safetensors':
            assert load(url).keys() == {'t'}
        else:
            with pytest.raises(UserError, match='cannot be read safely'):
                load(url)
        with pytest.raises(UserError, match=f'not {FALSE}'):
            load(f'{url}#sha256={FALSE}')
    assert not hostile.has_run(tmp_path)


def test_S2_honest_weights_are_loaded_over_https_alone(tmp_path, certificate, trusting, caplog):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    with web.serve({'/a.pth': content}, certificate) as site:
        url = f'{site.address}/a.pth#sha256={hashlib.sha256(content).hexdigest()}'
        assert load(url).keys() == {'weight', 'bias'}
    with web.serve({'/a.pth': content}) as site:
        with pytest.raises(UserError, match='only https:// addresses'):
            load(f'{site.address}/a.pth')
        assert not site.asked


def test_S2_tables_of_names_lead_to_our_own_download(monkeypatch):
    """`torchvision://` and the like name addresses, some of them http."""
    asked = []
    monkeypatch.setattr(
        'hstpeft.engine.safe_io.download', lambda url, *_: asked.append(url) or exit_with(url)
    )
    for name in ('torchvision://resnet18', 'open-mmlab://resnet50_caffe', 'mmcls://vgg11'):
        with pytest.raises(UserError, match='asked for https://'):
            load(name)
    assert len(asked) == 3


def exit_with(url: str) -> None:
    """End here."""
    raise UserError(f'asked for {url}')


ARCH, TAG = 'test_vit', 'r160_in1k'


@pytest.fixture
def cached_blob(tmp_path, monkeypatch) -> Path:
    """A hub cache with the weights of a small model, as the hub lays it out; returns the file."""
    save_file(timm.create_model(ARCH).state_dict(), tmp_path / 'file')
    digest = hashlib.sha256((tmp_path / 'file').read_bytes()).hexdigest()
    repository = tmp_path / f'models--timm--{ARCH}.{TAG}'
    for folder in ('refs', 'blobs', 'snapshots/' + '0' * 40):
        (repository / folder).mkdir(parents=True)
    (repository / 'refs/main').write_text('0' * 40)
    blob = repository / 'blobs' / digest
    shutil.move(tmp_path / 'file', blob)
    (repository / 'snapshots' / ('0' * 40) / 'model.safetensors').symlink_to(blob)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    return blob


@pytest.mark.parametrize('position', [100, -1])
def test_S8_a_hub_file_with_a_flipped_byte_is_refused(cached_blob, position):
    assert read_weights(TAG, ARCH)
    content = bytearray(cached_blob.read_bytes())
    content[position] ^= 1
    cached_blob.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        UserError, match=f'was deleted: its sha256 is {found}, not {cached_blob.name}'
    ):
        read_weights(TAG, ARCH)
    assert not cached_blob.exists()


def test_S8_a_trunk_that_we_know_is_compared_with_its_fingerprint(cached_blob, monkeypatch):
    monkeypatch.setitem(hub.FINGERPRINTS, f'{ARCH}.{TAG}', FALSE)
    with pytest.raises(UserError, match=f'fingerprint is [0-9a-f]{{64}}, not {FALSE}'):
        read_weights(TAG, ARCH)
