"""docs/extending.md is run: its files in a copy of the project, its commands, and what they print."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import tiny

pytestmark = pytest.mark.slow

GUIDE = (tiny.ROOT / 'docs' / 'extending.md').read_text()
COPIED = ('configs', 'hstpeft', 'pyproject.toml', 'tests', 'tools')
IGNORED = shutil.ignore_patterns('__pycache__', 'data', 'reference')
FENCE = re.compile(
    r'^(?:\*\*`(?P<path>[^`\n]+)`\*\*\n\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$', re.M | re.S
)
COMMAND = re.compile(r'^\$ ((?:.*\\\n)*.*\n)', re.M)
# mmpretrain of the onedl line says so whenever its data sets are imported.
NOISE = 'Could not import OneDL\n'


class Block(NamedTuple):
    """A fenced block of the guide.

    Attributes:
        path: The file that it is, or changes; of a diff without one, that of the block before.
        kind: Its language.
        text: What is between the fences.
    """

    path: str
    kind: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    path = ''
    for found in FENCE.finditer(text):
        path = found['path'] or (path if found['kind'] == 'diff' else '')
        yield Block(path, found['kind'], found['text'])


SECTIONS = {part.splitlines()[0]: part for part in re.split(r'^## ', GUIDE, flags=re.M)[1:]}
BLOCKS = {name: list(blocks(text)) for name, text in SECTIONS.items()}
TUNER = next(iter(SECTIONS))
each_section = pytest.mark.parametrize('section', SECTIONS)


def edited(text: str, diff: str) -> str:
    """Apply a diff without line numbers; its context, and what it takes out, must stand there once."""
    old, new = (
        ''.join(f'{line[1:]}\n' for line in diff.splitlines() if line[0] in f' {sign}')
        for sign in '-+'
    )
    assert text.count(old) == 1, f'not once in the file:\n{old}'
    return text.replace(old, new)


@pytest.fixture(scope='module')
def project(tmp_path_factory) -> Path:
    """Copy the project, and do to it what the guide says."""
    root = tmp_path_factory.mktemp('extended') / 'project'
    root.mkdir()
    for name in COPIED:
        if (tiny.ROOT / name).is_dir():
            shutil.copytree(tiny.ROOT / name, root / name, ignore=IGNORED)
        else:
            shutil.copy(tiny.ROOT / name, root / name)
    for block in (block for section in BLOCKS.values() for block in section):
        file = root / block.path
        if block.kind == 'diff':
            file.write_text(edited(file.read_text(), block.text))
        elif block.path:
            assert not file.exists(), f'{block.path} would be overwritten'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
    return root


class Printed(NamedTuple):
    """What shell commands did: their status, the last one's, and all that they printed."""

    status: int
    text: str


def run(project: Path, commands: str) -> Printed:
    """Run shell commands in the project."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(('PYTEST', 'DIALS'))}
    path = f'{Path(sys.executable).parent}{os.pathsep}{own["PATH"]}'
    temporary = project.parent / 'tmp'
    temporary.mkdir(exist_ok=True)
    own |= dict(PATH=path, PYTHONPATH=str(project), TMPDIR=str(temporary), OMP_NUM_THREADS='1')
    done = subprocess.run(
        ['bash', '-o', 'pipefail', '-c', commands], cwd=project, env=own, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return Printed(done.returncode, done.stdout.replace(NOISE, ''))


@pytest.fixture(scope='module')
def printed(project) -> dict[str, Printed]:
    """Run the commands of every console, two consoles at a time: most of it is importing."""
    consoles = [b.text for section in BLOCKS.values() for b in section if b.kind == 'console']
    with ThreadPoolExecutor(2) as pool:
        commands = [''.join(COMMAND.findall(console)) for console in consoles]
        found = list(pool.map(functools.partial(run, project), commands))
    return dict(zip(consoles, found, strict=True))


def pattern(shown: str) -> str:
    """Turn what a console shows into a pattern: `...` is anything, alone on a line any lines."""
    return ''.join(
        r'(.*\n)*?' if line == '...' else re.escape(line).replace(r'\.\.\.', '.*') + r'\n'
        for line in shown.splitlines()
    )


@each_section
def test_a_section_lists_the_files_that_it_shows(section):
    listed = re.findall(r'^\| `([^`]+)` \|', SECTIONS[section].split('### Its files')[1], re.M)
    assert sorted(listed) == sorted({block.path for block in BLOCKS[section] if block.path})


@each_section
def test_no_code_is_left_out(section):
    left_out = [b for b in BLOCKS[section] if not b.path and b.kind not in ('console', 'text')]
    assert not left_out
    assert SECTIONS[section].count('```') == 2 * len(BLOCKS[section])


def test_only_the_files_of_the_guide_are_new_or_changed(project):
    """In particular, its trunk family has changed no tuner."""
    shown = {block.path for section in BLOCKS.values() for block in section if block.path}
    files = [path for path in project.rglob('*.py') if 'work_dirs' not in path.parts]
    names = {path.relative_to(project).as_posix(): path.read_text() for path in files}
    theirs = {name for name, text in names.items() if not is_ours(name, text)}
    assert theirs == shown
    tuners = {name for name in theirs if name.startswith('hstpeft/models/tuners/')}
    assert tuners == {block.path for block in BLOCKS[TUNER] if block.path in tuners}
    assert not [name for name in tuners if (tiny.ROOT / name).exists()]


def is_ours(name: str, text: str) -> bool:
    """Whether a file of the copy is that of the project."""
    original = tiny.ROOT / name
    return original.is_file() and original.read_text() == text


def test_every_path_that_is_named_exists(project):
    prose = FENCE.sub('', GUIDE)
    adaptformer = next(b.text for b in blocks(GUIDE) if 'files changed' in b.text)
    named = re.findall(r'`((?:\w+/)+[\w-]+\.\w+)`', prose) + re.findall(
        r'^ (\S+) +\|', adaptformer, re.M
    )
    missing = {name for name in named if not (project / name).exists() and 'NAME' not in name}
    assert len(named) > 20 and not missing


def test_the_code_is_formatted_and_knows_its_layer(project):
    commands = (
        'ruff check -q . && ruff format -q --check . && '
        'python -m pytest -q -k "only_down or their_layers" tests/test_architecture*'
    )
    status, text = run(project, commands)
    assert status == 0 and ' passed' in text, text


@each_section
def test_commands_print_what_the_guide_shows(section, printed):
    consoles = [block.text for block in BLOCKS[section] if block.kind == 'console']
    assert consoles
    for console in consoles:
        status, text = printed[console]
        assert status == 0, f'{console}\n{text}'
        assert re.fullmatch(pattern(COMMAND.sub('', console)), text), f'{console}\n{text}'
