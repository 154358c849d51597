"""A timm tag is downloaded from the hub, and a hub out of reach is one line of advice."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
from safetensors.torch import save

from hstpeft.delta import fingerprint
from tests.support.models import draw
from tests.support.paths import ROOT

ARCH, TAG, OTHER_TAG = 'vit_tiny_patch16_224', 'augreg_in21k', 'augreg_in21k_ft_in1k'
SCRIPT = """
from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
print(ViTTrunk({arch!r}, {options!r}, {tag!r}).identity)
try:
    ViTTrunk({arch!r}, {options!r}, {other!r})
except UserError as error:
    print('UserError:', error)
"""


@pytest.fixture
def hub(monkeypatch):
    """A server with one repository, as the hub would answer; yields (address, state dict)."""
    vit = timm.create_model(f'{ARCH}.{TAG}', num_classes=3)
    state = draw({key: value.shape for key, value in vit.state_dict().items()})
    state['head.weight'], state['head.bias'] = (
        state['cls_token'].new_ones(21843, 192),
        state['cls_token'].new_ones(21843),
    )
    body = save(state)

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path == f'/timm/{ARCH}.{TAG}/resolve/main/model.safetensors'
            self.send_response(200 if found else 404)
            if found:
                self.send_header('ETag', f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header('X-Repo-Commit', '0' * 40)
                self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', state
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_tag_comes_from_the_hub_and_a_failing_download_is_one_line(hub, tmp_path):
    address, state = hub
    # 6 x 6 patches instead of 14 x 14: a download must not depend on the size asked for.
    script = SCRIPT.format(arch=ARCH, tag=TAG, other=OTHER_TAG, options=dict(img_size=96))
    environment = {
        **os.environ,
        'HF_ENDPOINT': address,
        'HF_HOME': str(tmp_path),
        'HF_HUB_DISABLE_XET': '1',
        'PYTHONPATH': str(ROOT),
        'no_proxy': '127.0.0.1',
    }
    environment.pop('HF_HUB_OFFLINE', None)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    trunk = {key: value for key, value in state.items() if not key.startswith('head.')}
    assert lines[0] == fingerprint(trunk)
    assert len(lines) == 2
    assert lines[1].startswith(f'UserError: trunk.weights {ARCH}.{OTHER_TAG} cannot be downloaded')
    assert 'give a local file' in lines[1]


def test_mean_and_std_are_those_of_the_tag_that_is_named(monkeypatch):
    from hstpeft.models.trunks import ViTTrunk, sequence

    options = dict(embed_dim=32, depth=1, num_heads=2)
    source = timm.create_model('vit_base_patch16_224', num_classes=0, **options).state_dict()
    monkeypatch.setattr(sequence, 'read_weights', lambda *_: source)
    mae = ViTTrunk('vit_base_patch16_224', options, weights='mae')
    augreg = ViTTrunk('vit_base_patch16_224', options, weights='augreg_in21k')
    by_file = ViTTrunk('vit_base_patch16_224', options, weights='trunk.npz')
    assert mae.mean == (0.485, 0.456, 0.406)
    assert augreg.mean == augreg.std == by_file.mean == (0.5, 0.5, 0.5)
