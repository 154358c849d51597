"""tools/_env.sh, with a fake Python in place of the real one: nothing is installed, nothing is downloaded."""

import os
import shutil
import subprocess

import pytest

from tests.support.paths import ROOT

FAKE_PYTHON = r"""#!/bin/bash
printf '%s\n' "$*" >>"$CALLS"
case "$*" in
  *'-m venv'*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *'-m pip --version') ;;
  *'-m pip '*) printf '%s\n' "$PIP_SAYS"; exit "${PIP_STATUS:-0}" ;;
  *SOABI*) echo cpython-311 ;;
  *version_info*) echo "${FAKE_VERSION:-3.11} $0"; [[ "${FAKE_VERSION:-3.11}" == 3.11 ]] ;;
  *'import venv'*) exit "${VENV_STATUS:-0}" ;;
  *_ext*) exit "${EXT_STATUS:-0}" ;;
  *quickstart.py*) printf '<%s>' "${@:2}" ;;
esac
"""
FAKE_DF = r"""#!/bin/bash
printf 'Filesystem 1M-blocks Used Available Capacity Mounted\ntmpfs 9 9 %s 1%% /x\n' "${FREE:-99999}"
"""


@pytest.fixture
def machine(tmp_path):
    """Runs a script of tools/ on a machine whose only Python is fake; returns the finished process."""
    folder = tmp_path / 'two words'
    fakes = folder / 'fakes'
    fakes.mkdir(parents=True)
    for name in ('python3.11', 'python3.12', 'python3', 'python', 'df'):
        (fakes / name).write_text(FAKE_DF if name == 'df' else FAKE_PYTHON)
        (fakes / name).chmod(0o755)
    calls = folder / 'calls'
    base = {k: v for k, v in os.environ.items() if not k.startswith(('HSTPEFT_', 'PIP_', 'FORCE_'))}
    base |= {'PATH': f'{fakes}:{os.environ["PATH"]}', 'CALLS': str(calls), 'PIP_SAYS': ''}
    base |= {'HSTPEFT_VENV': str(folder / 'env')}

    def run(script='quickstart.sh', *args, root=ROOT, before=(), **env):
        calls.write_text('')
        env = {k: str(v) for k, v in (base | env).items() if v is not None}
        command = [*before, 'bash', str(root / 'tools' / script), *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        done.pips = [line for line in calls.read_text().splitlines() if 'pip install' in line]
        return done

    run.fakes = fakes
    run.folder = folder
    return run


def complaint(done):
    """The last line on stderr of a run that must have failed without a traceback."""
    assert done.returncode == 1, done
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('hstpeft: error: ')
    return last


def test_installs_once_and_passes_arguments(machine):
    first = machine('quickstart.sh', '--name', 'two words')
    assert first.returncode == 0, first.stderr
    assert first.stdout == '<--name><two words>'
    assert len(first.pips) == 3
    assert '-e' in first.pips[-1].split()
    again = machine('quickstart.sh')
    assert again.returncode == 0 and not again.pips and not again.stderr


def test_a_script_that_sources_the_library_ends_with_its_own_status(machine):
    sourcing = ('bash', '-c', 'set -e; source "$2"; use_env runtime', 'ci')
    for _ in range(2):  # while installing, and when nothing is left to install
        done = machine('_env.sh', before=sourcing)
        assert done.returncode == 0, done


def test_goes_on_after_a_failure(machine):
    complaint(machine(PIP_STATUS=1, PIP_SAYS='ERROR: anything'))
    done = machine()
    assert done.returncode == 0 and 'going on after an interrupted' in done.stderr
    assert not (machine.folder / 'env/.hstpeft/dirty').exists()


def test_goes_on_after_a_half_made_environment(machine):
    (machine.folder / 'env').mkdir()
    (machine.folder / 'env/pyvenv.cfg').touch()
    assert 'is in the way' in complaint(machine())
    (machine.folder / 'env.making').touch()  # the mark that an interrupted run of ours leaves
    assert machine().returncode == 0
    assert not (machine.folder / 'env.making').exists()


def test_changed_requirements_are_installed_again(machine):
    assert machine().returncode == 0
    (machine.folder / 'env/.hstpeft/runtime').write_text('another hash\n')
    assert len(machine().pips) == 2


@pytest.mark.parametrize(
    'says, expected',
    [
        ('WARNING: NewConnectionError: Failed to establish a new connection', 'no network'),
        ('ERROR: No matching distribution found for timm==9', 'package not found: timm==9'),
        ('ERROR: [Errno 28] No space left on device', 'disk full'),
        ('WARNING: noise\nERROR: some other reason\n', 'ERROR: some other reason'),
    ],
)
def test_pip_failure_is_one_line_with_the_log(machine, says, expected):
    line = complaint(machine(PIP_STATUS=1, PIP_SAYS=says))
    assert expected in line
    assert line.endswith('/env/.hstpeft/pip.log')


def test_python_too_old(machine):
    line = complaint(machine(FAKE_VERSION='3.9'))
    assert 'no Python 3.11 or 3.12' in line and 'python3 is 3.9' in line


def test_dead_shims_are_skipped(machine):
    (machine.fakes / 'python3.11').write_text('#!/bin/sh\necho "pyenv: not found" >&2\nexit 127\n')
    assert machine().returncode == 0


def test_no_venv_module(machine):
    assert 'has no venv module' in complaint(machine(VENV_STATUS=1))


def test_no_space(machine):
    assert '600 MB free' in complaint(machine(FREE=600))


def test_no_compiler(machine):
    done = machine('run_tests.sh', CXX='false', EXT_STATUS=1)
    assert 'no C++ compiler' in complaint(done)
    assert not done.pips


def test_second_clone_shares_the_cached_environment(machine):
    clone = machine.folder / 'clone'
    for name in ('tools', 'requirements'):
        shutil.copytree(ROOT / name, clone / name)
    cache = {'HSTPEFT_VENV': None, 'HSTPEFT_CACHE': machine.folder / 'cache'}
    first = machine(**cache)
    assert (
        first.returncode == 0 and len(first.pips) == 2
    )  # no editable install in a shared environment
    second = machine(root=clone, **cache)
    assert second.returncode == 0 and not second.pips
    with (clone / 'requirements/runtime.txt').open('a') as file:
        file.write('# changed\n')
    assert len(machine(root=clone, **cache).pips) == 2
    assert len(list((machine.folder / 'cache/envs').glob('*/bin'))) == 2


def test_waits_for_another_installation(machine):
    fcntl = pytest.importorskip('fcntl')
    with (machine.folder / 'env.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = machine(before=('timeout', '0.5'))
    assert 'waiting for another hstpeft installation in ' in done.stderr
    assert not done.pips
    assert machine().returncode == 0


def test_hooks_name_the_versions_of_the_tests():
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    for line in (ROOT / 'requirements/test.txt').read_text().splitlines():
        if line.startswith(('ruff', 'codespell')):
            assert f'[{line}]' in hooks
