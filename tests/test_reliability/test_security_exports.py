"""S12, S14: what leaves the machine tells nothing of it; the project's own chain of supply."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hstpeft.apis import publish
from tests.support import tiny
from tests.support.paths import ROOT
from tools import delta, test

SECRET = 'correct-horse-battery-staple'


def export_all(run: tiny.Run, folder: Path) -> list[Path]:
    """Write every kind of file that is meant for others."""
    source, metrics = str(run.delta), folder / 'metrics.json'
    delta.main(['export', source, str(folder / 'a.safetensors')])
    delta.main(['import', str(folder / 'a.safetensors'), str(folder / 'b.pth')])
    publish(run.work_dir / 'epoch_3.pth', folder / 'c.safetensors')
    publish(source, folder / 'd.pth')
    test.main(tiny.arguments(run.task.hst, folder / 'work', source, '--out', metrics))
    shutil.copy(source, folder / 'delta.pth')
    return [path for path in folder.iterdir() if path.is_file()]


def test_S12_exports_hold_no_secret_and_no_path_of_home(trained, tmp_path, monkeypatch, capsys):
    """The weights, the config and the data lie in the home folder here."""
    home = trained.task.folder
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('HUB_TOKEN', SECRET)
    files = export_all(trained, tmp_path)
    assert {path.suffix for path in files} == {'.pth', '.safetensors', '.json'}
    assert len(files) == 7
    words = {str(home), str(ROOT), SECRET, *os.environ.values(), os.uname().nodename}
    words = {word for word in words if len(word) > 8}  # shorter ones are there by chance
    for path in files:
        content = path.read_bytes()
        assert not [word for word in words if word.encode() in content], path.name
    assert SECRET not in capsys.readouterr().out


def test_S12_no_log_holds_a_secret(task, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('HUB_TOKEN', SECRET)
    tiny.train(task.hst, tmp_path / 'work', '--dry-run')
    logs = [path for path in (tmp_path / 'work').rglob('*') if path.is_file()]
    assert any(path.suffix == '.log' for path in logs)
    assert not [path for path in logs if SECRET.encode() in path.read_bytes()]
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err


def test_S14_actions_are_pinned_by_digest():
    used = []
    for path in (ROOT / '.github/workflows').glob('*.yml'):
        for job in yaml.safe_load(path.read_text())['jobs'].values():
            used += [step['uses'] for step in job['steps'] if 'uses' in step]
    assert used
    assert all(re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', action) for action in used), used


def test_S14_the_policy_names_a_private_contact_and_ci_looks_for_holes():
    assert 'Please report a vulnerability in private' in (ROOT / 'SECURITY.md').read_text()
    assert '.ci/security "$PY"' in (ROOT / '.ci/run').read_text()
    step = (ROOT / '.ci/security').read_text()
    assert re.search(r'bandit==[\d.]+ pip-audit==[\d.]+', step)


STAND_IN = f"""#!/bin/sh
# A Python whose environments have a pip that answers at once.
if [ "$1" != -m ]; then exec {sys.executable} "$@"; fi
mkdir -p "$4/bin"
ln -s {sys.executable} "$4/bin/python"
printf '#!/bin/sh\necho no network; exit %s\n' "$PIP_STATUS" >"$4/bin/pip"
chmod +x "$4/bin/pip"
"""


@pytest.mark.parametrize('found', [False, True])
def test_S14_the_step_says_what_it_skips_and_fails_for_what_it_finds(tmp_path, found):
    """With tools that stand in for bandit and pip-audit, for no test needs a network."""
    (tmp_path / '.ci').mkdir()
    shutil.copy(ROOT / '.ci/security', tmp_path / '.ci')
    write_script(tmp_path / 'python', STAND_IN)
    done = run_step(tmp_path, pip_status=1)
    assert done.returncode == 0
    assert 'SKIPPED: bandit and pip-audit: they cannot be installed: no network' in done.stderr
    (env,) = (tmp_path / 'cache').iterdir()
    vulnerability = '{"id": "CVE-1", "fix_versions": ["2"]}' if found else ''
    report = f'{{"dependencies": [{{"name": "a", "version": "1", "vulns": [{vulnerability}]}}]}}'
    write_script(env / 'bin/bandit', '#!/bin/sh\n')
    write_script(
        env / 'bin/pip-audit',
        f"#!/bin/sh\nwhile [ $1 != -o ]; do shift; done; echo '{report}' >$2\n",
    )
    (env / 'complete').touch()
    done = run_step(tmp_path)
    assert done.returncode == found
    assert ('CVE-1' in done.stdout) is found
    write_script(env / 'bin/pip-audit', '#!/bin/sh\necho no route to host >&2; exit 1\n')
    done = run_step(tmp_path)
    assert done.returncode == 0
    assert 'SKIPPED: pip-audit: the advisory service cannot be reached: no route' in done.stderr
    write_script(env / 'bin/bandit', '#!/bin/sh\nexit 1\n')
    assert run_step(tmp_path).returncode == 1


def run_step(project: Path, pip_status: int = 0) -> subprocess.CompletedProcess:
    """Run the step in a project, with the Python that stands in for ours."""
    environment = {
        **os.environ, 'HSTPEFT_CACHE': str(project / 'cache'), 'PIP_STATUS': str(pip_status)
    }  # fmt: skip
    command = ['bash', project / '.ci/security', project / 'python']
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def write_script(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
