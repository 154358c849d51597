"""The wheel: what is in it works outside of any clone."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

# All that a wheel is built from. It is copied: a build writes into its folder.
SOURCES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml')
FOLDERS = ('hstpeft', 'configs', 'tools', 'requirements')
BUILD = 'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])'
USE = """
import hstpeft, sys
from hstpeft.apis import get_model, list_models
assert hstpeft.__file__.startswith(sys.argv[1]), hstpeft.__file__
get_model('hst_vit-mini_1xb32-12e_rendered')
print(*list_models())
"""
# One process for all, as each spends its time on imports; what one tool found, the next one must
# find anew.
HELP = """
import os, runpy, sys, warnings
warnings.filterwarnings('ignore')
before = sys.path[:]
for tool in sys.argv[1:]:
    sys.argv, sys.path[:] = [tool, '--help'], [os.path.dirname(tool), *before]
    for name in [name for name in sys.modules if name.split('.')[0] == 'tools']:
        del sys.modules[name]
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert not end.code, tool
    else:
        raise AssertionError(f'{tool} has no --help')
assert 'tests' not in sys.modules
"""


def tools(root: Path) -> list[str]:
    """Files below tools/ that a user can start."""
    found = (root / 'tools').rglob('*.py')
    return sorted(
        path.relative_to(root).as_posix()
        for path in found
        if "if __name__ == '__main__':" in path.read_text()
    )


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Build the wheel with the setuptools at hand; returns the folder it is unpacked in."""
    folder = tmp_path_factory.mktemp('wheel')
    source, unpacked = folder / 'source', folder / 'site'
    skip = shutil.ignore_patterns('__pycache__')
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    run(folder, [sys.executable, '-c', BUILD, str(folder)], cwd=source)
    (built,) = folder.glob('hstpeft-*-py3-none-any.whl')
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


def run(site: Path, command: list[str], cwd: Path, status: int = 0) -> str:
    """Run a command to which hstpeft is what the wheel holds; returns all that it printed."""
    environment = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def test_the_wheel_holds_what_the_clone_does(wheel):
    def files(folder: Path) -> set[str]:
        return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}

    mim = wheel / 'hstpeft' / '.mim'
    assert {name for name in files(wheel / 'hstpeft') if name[0] != '.'} == {
        name for name in files(ROOT / 'hstpeft') if '__pycache__' not in name
    }
    for folder in ('configs', 'tools'):
        cloned = {name for name in files(ROOT / folder) if '__pycache__' not in name}
        left_out = cloned - files(mim / folder)
        assert files(mim / folder) <= cloned
        only_clones = {'_env.sh', 'quickstart.sh', 'run_tests.sh'}
        assert left_out == (only_clones if folder == 'tools' else set())
    assert (mim / 'model-index.yml').is_file()
    others = {path.name for path in wheel.iterdir()} - {'hstpeft'}
    assert all(name.endswith('.dist-info') for name in others), others


def test_the_metadata_asks_for_no_more_than_is_tested(wheel):
    (metadata,) = wheel.glob('*.dist-info/METADATA')
    text = metadata.read_text()
    bounds = dict(
        re.findall(r'^Requires-Dist: (\w+)[^;\n]*?>=([\d.]+)[^;\n]*$', text, re.MULTILINE)
    )
    pins = (ROOT / 'requirements' / 'runtime.txt').read_text()
    pinned = dict(re.findall(r'^([\w-]+)==([\d.]+)', pins, re.MULTILINE))
    assert bounds.keys() == {'torch', 'timm', 'safetensors', 'numpy'}
    for name, bound in bounds.items():
        low, tested = ([int(n) for n in version.split('.')] for version in (bound, pinned[name]))
        assert low <= tested, name


def test_a_shipped_model_is_built_from_the_wheel_alone(wheel, tmp_path):
    listed = run(wheel, [sys.executable, '-c', USE, str(wheel)], cwd=tmp_path).split()
    leaves = {p.stem for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts}
    assert leaves <= set(listed)


def test_every_python_tool_answers_help(wheel, tmp_path):
    mim = wheel / 'hstpeft' / '.mim'
    found = tools(mim)
    assert found == tools(ROOT)
    assert {'tools/train.py', 'tools/model_converters/hst.py'} <= set(found)
    printed = run(wheel, [sys.executable, '-c', HELP, *(str(mim / f) for f in found)], cwd=tmp_path)
    assert printed.count('usage: ') == len(found)


@pytest.mark.parametrize('name', ['dist_train', 'dist_test', 'slurm_train'])
def test_a_shell_tool_says_how_it_is_used(wheel, tmp_path, name):
    tool = str(wheel / 'hstpeft' / '.mim' / 'tools' / f'{name}.sh')
    assert run(wheel, ['bash', tool], cwd=tmp_path, status=2).startswith('usage: ')


def test_training_runs_from_the_wheel_alone(wheel, tmp_path):
    mim = wheel / 'hstpeft' / '.mim'
    config = mim / 'configs/quickstart/hst_vit-mini_1xb32-12e_rendered.py'
    command = [sys.executable, str(mim / 'tools/train.py'), str(config), '--dry-run']
    run(wheel, [*command, '--work-dir', 'work'], cwd=tmp_path)
    assert (tmp_path / 'work/dry_run/delta.pth').is_file()
