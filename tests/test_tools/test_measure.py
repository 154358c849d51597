"""tools/measure.py: one JSON per run, resumable, and a table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from tests.support import tiny
from tools import measure


def options(*configs, out, flags=()):
    return [*map(str, configs), '--out', str(out), *flags]


@pytest.fixture(scope='module')
def measured(tmp_path_factory, trained):
    """Measure the tiny linear probe once."""
    out = tmp_path_factory.mktemp('measured')
    measure.main(options(trained.task.linear, out=out))
    return out, json.loads((out / 'frozen_tiny.json').read_text())


@pytest.mark.slow
def test_the_json_holds_what_was_trained_and_what_it_took(measured):
    out, result = measured
    delta = out / 'frozen_tiny' / 'delta.pth'
    assert result['run'] == 'frozen_tiny'
    assert result['metrics'].keys() == {'accuracy/top1'}
    assert result['trainable'] == 32 * 3 + 3
    assert result['delta_mb'] == round(delta.stat().st_size / 1e6, 2)
    assert 0 < result['cpu_seconds'] < 600
    # Python with torch alone takes more than this, in MB.
    assert result['peak_mb'] > 100
    assert result['attempts'] == 1


# In a small process of its own: the peak of a child is at least what its parent holds.
PEAK = """
import os, subprocess, sys
from tools.memory import peak_mb
for code in ("pass", "text = 'x' * 400_000_000"):
    process = subprocess.Popen([sys.executable, '-c', code])
    print(peak_mb(os.wait4(process.pid, 0)[2]))
"""


def test_a_megabyte_is_a_million_bytes():
    command = [sys.executable, '-c', PEAK]
    done = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True, check=True)
    without, with_text = map(float, done.stdout.split())
    assert with_text - without == pytest.approx(400, abs=5)


@pytest.mark.slow
def test_a_measured_run_is_read_and_not_repeated(measured, trained):
    out, _ = measured
    before = (out / 'frozen_tiny' / 'delta.pth').stat().st_mtime_ns
    measure.main(options(trained.task.linear, out=out))
    assert (out / 'frozen_tiny' / 'delta.pth').stat().st_mtime_ns == before


def test_the_table_shows_the_chosen_metrics():
    result = {**dict.fromkeys(measure.COLUMNS, 1), 'metrics': {'mIoU': 41.25, 'aAcc': 80.5}}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(measure.table([result], ['mIoU']))
    assert 'mIoU 41.25' in shown.get()
    assert 'aAcc' not in shown.get()


def test_a_delta_of_unknown_cost_is_refused(trained, tmp_path, capsys):
    folder = tmp_path / trained.task.hst.stem
    folder.mkdir()
    shutil.copy(trained.delta, folder)
    with pytest.raises(SystemExit):
        measure.main(options(trained.task.hst, out=tmp_path))
    assert 'holds a delta that this tool did not see trained' in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_training_is_one_line_and_its_cost_is_kept(tmp_path, trained, capsys):
    flags = ['--cfg-options', 'train_dataloader.dataset.data_root=nowhere']
    with pytest.raises(SystemExit):
        measure.main(options(trained.task.linear, out=tmp_path, flags=flags))
    assert 'ended with status 1' in capsys.readouterr().err
    assert len(json.loads((tmp_path / 'frozen_tiny' / 'spent.json').read_text())) == 1
    assert not (tmp_path / 'frozen_tiny.json').exists()


@pytest.mark.slow
def test_the_training_ends_with_the_tool(tmp_path, trained):
    command = [sys.executable, str(tiny.ROOT / 'tools' / 'measure.py')]
    running = subprocess.Popen([*command, *options(trained.task.linear, out=tmp_path)])
    children = Path(f'/proc/{running.pid}/task/{running.pid}/children')
    deadline = time.monotonic() + 120
    while not (child := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(child[0]), 0)
            time.sleep(0.1)


PARENT = """
import resource, subprocess, sys
subprocess.run([sys.executable, '-I', '-S', '-c', 'b"1" * 400_000_000'], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_peak_is_in_megabytes_of_a_million_bytes():
    # Between, a small process: a child's peak is at least that of the one that starts it.
    command = [sys.executable, '-I', '-S', '-c', PARENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    usage = SimpleNamespace(ru_maxrss=int(done.stdout))
    assert 400 < measure.peak_mb(usage) < 420


def test_statistics_and_the_identity_do_not_count(tmp_path):
    state = {
        'backbone._extra_state': torch.zeros(128, dtype=torch.uint8),
        'neck.norm.running_mean': torch.zeros(5),
        'neck.norm.num_batches_tracked': torch.tensor(3),
        'head.fc.weight': torch.zeros(2, 5),
    }
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'delta.pth')
    assert measure.count_trainable(tmp_path / 'delta.pth') == 10
