"""Imports point only down."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / 'hstpeft'
# Layer -> what of hstpeft it may import. A layer may always import itself.
BASIC = {'errors', 'version', 'compat'}
LAYERS = {
    'errors': set(),
    'version': set(),
    'compat': {'errors'},
    '__init__': {'version'},
    'fetch': {'errors'},
    'registry': BASIC,
    'delta': BASIC,
    'official': BASIC,
    'oracle': BASIC,
    'models.recompute': BASIC,
    'models.trunks': BASIC | {'registry', 'delta', 'fetch', 'models.recompute'},
    'models.side': BASIC | {'registry', 'delta', 'models.recompute'},
    'models.tuners': BASIC
    | {'registry', 'delta', 'models.recompute', 'models.trunks', 'models.side'},
    'models.backbones': BASIC | {'registry', 'delta', 'models.trunks', 'models.tuners'},
    'models.necks': BASIC | {'registry', 'delta'},
    'models.heads': BASIC | {'registry', 'delta'},
    'models.classifiers': BASIC | {'registry', 'delta'},
    'visualization': BASIC | {'registry', 'delta', 'models'},
    'datasets': BASIC | {'registry'},
    'engine': BASIC | {'registry', 'delta', 'fetch', 'models', 'datasets'},
    'apis': BASIC | {'registry', 'delta', 'models', 'datasets', 'engine', 'visualization'},
}
# Where packages of others may appear; everything else of hstpeft must do without them.
OWNERS = {
    'timm': ('models.trunks',),
    'mmpretrain': (
        'datasets', 'engine', 'apis', 'visualization', 'models.heads', 'models.classifiers',
    ),
    'peft': ('models.tuners', 'delta'),
    'mmseg': (),
    'mmdet': (),
}  # fmt: skip


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob('*.py'))


FILES = files_of(PACKAGE)


def roots_of(names: Iterable[str]) -> set[str]:
    return {name.split('.')[0] for name in names}


def module_name(file: str) -> str:
    return file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def layer_of(name: str) -> str | None:
    """Return the longest layer that a module's dotted name (inside hstpeft) belongs to."""
    parts = name.split('.')
    for end in range(len(parts), 0, -1):
        if '.'.join(parts[:end]) in LAYERS:
            return '.'.join(parts[:end])
    return None


def imports(file: str, root: Path = PACKAGE) -> set[str]:
    """Absolute names of everything that a file below a root package imports, wherever in the file."""
    package = [root.name, *file.split('/')[:-1]]
    found = set()
    for node in ast.walk(ast.parse((root / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            found |= {f'{module}.{alias.name}' for alias in node.names}
    return found


def imported_layers(file: str) -> set[str]:
    own = (name.removeprefix('hstpeft.') for name in imports(file) if name.startswith('hstpeft.'))
    return {layer_of(name) or name for name in own}


def is_allowed(layer: str, target: str) -> bool:
    allowed = LAYERS[layer] | {layer}
    return any(target == name or target.startswith(f'{name}.') for name in allowed)


@pytest.mark.parametrize('file', FILES)
def test_imports_point_only_down(file):
    layer = layer_of(module_name(file))
    if layer is None:  # a package that only re-exports its parts
        assert file == 'models/__init__.py', file
        return
    upward = {name for name in imported_layers(file) if not is_allowed(layer, name)}
    assert not upward, f'{file} ({layer}) imports {upward}'


@pytest.mark.parametrize('file', FILES)
def test_foreign_packages_stay_in_their_layers(file):
    roots = roots_of(imports(file))
    for package, owners in OWNERS.items():
        at_home = module_name(file).startswith(owners) if owners else False
        assert at_home or package not in roots, f'{file} imports {package}'


def test_a_trunk_knows_no_tuner_and_the_side_network_knows_only_tensors():
    for file in FILES:
        layers = imported_layers(file)
        if file.startswith('models/trunks/'):
            assert not layers & {'models.tuners', 'models.side', 'models.backbones'}, file
        if file.startswith('models/side/'):
            assert layers <= {'models.side', 'models.recompute', 'errors'}, file
        if file.startswith('delta/'):
            assert not any(name.startswith(('models', 'registry')) for name in layers), file


@pytest.mark.parametrize('package', ['official', 'oracle'])
def test_official_names_and_literal_forms_serve_tools_and_tests_alone(package):
    """What a user trains depends on no official code, neither its names nor its equations."""
    others = [file for file in FILES if layer_of(module_name(file)) != package]
    assert len(others) < len(FILES)
    assert not [file for file in others if package in imported_layers(file)]


@pytest.mark.parametrize('folder', ['tools', 'projects'])
def test_what_is_run_never_imports_tests(folder):
    files = files_of(ROOT / folder)
    assert files
    assert not [file for file in files if 'tests' in roots_of(imports(file, ROOT / folder))]


def test_test_modules_and_conftests_are_imported_by_nobody():
    """What tests share lies in tests/support/."""
    tests = ROOT / 'tests'
    # `make.py` runs at an old commit, and means the conftest of that time.
    for file in [file for file in files_of(tests) if file != 'data/v0/make.py']:
        parts = [name.split('.') for name in imports(file, tests) if name.startswith('tests.')]
        assert all(name[1] == 'support' for name in parts), file


def test_conftests_hold_fixtures_and_hooks_only():
    for path in (ROOT / 'tests').rglob('conftest.py'):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                decorators = ' '.join(map(ast.unparse, node.decorator_list))
                assert 'fixture' in decorators or node.name.startswith('pytest_'), (path, node.name)


def test_the_rules_see_a_forbidden_import():
    """The parser must not be blind: relative, lazy and aliased imports count."""
    assert 'hstpeft.models.trunks.Trunk' in imports('models/tuners/base.py')
    assert not is_allowed('delta', 'models.trunks')
    assert not is_allowed('models.trunks', 'models.tuners')
    assert is_allowed('engine', 'models.tuners')
    assert layer_of('models.side.block') == 'models.side'
