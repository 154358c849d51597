"""hstpeft.apis and tools/delta.py in a process that cannot import mmpretrain."""

import json
import subprocess
import sys

import pytest

from tests.support import made_dense, tiny

SCRIPT = """
import sys
sys.modules['mmpretrain'] = None
from hstpeft.apis import inference, init_model, list_models, list_trunks, publish
assert list_models('hst_*') and list_trunks('dinov3', supported=True)
config, checkpoint, folder = sys.argv[1:]
model = init_model(config, checkpoint, 'cpu')
assert type(model).__module__.startswith('mmseg.')
from tools.delta import main
main(['info', checkpoint])
main(['export', checkpoint, f'{folder}/delta.safetensors'])
init_model(config, f'{folder}/delta.safetensors', 'cpu')
publish(checkpoint, f'{folder}/published.pth')
loaded = [name for name in sys.modules if name.split('.')[0] == 'mmpretrain']
assert loaded == ['mmpretrain'], loaded
"""


@pytest.mark.slow
def test_a_user_of_mmseg_alone(tmp_path):
    task = made_dense.make_task(tmp_path / 'task', made_dense.SEG)
    command = [sys.executable, '-W', 'ignore', '-c', SCRIPT, task.config, task.checkpoint, tmp_path]
    done = subprocess.run(
        list(map(str, command)), cwd=tiny.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'tuner: HSTTuner' in done.stdout.splitlines()
    assert json.loads((tmp_path / 'delta.json').read_text())['trunk'] == 'random'
    (published,) = tmp_path.glob('published-*.pth')
    assert published.stat().st_size > 0
