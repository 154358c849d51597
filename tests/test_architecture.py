"""The shape of the code: imports point only down, and hosts find every class of ours."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import Registry

from hstpeft import registry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'hstpeft'
# Layer -> what of hstpeft it may import. A layer may always import itself.
BASIC = {'errors', 'version', 'compat'}
LAYERS = {
    'errors': set(),
    'version': set(),
    'compat': {'errors'},
    '__init__': {'version'},
    'registry': BASIC,
    'delta': BASIC,
    'official': BASIC,
    'oracle': BASIC,
    'models.trunks': BASIC | {'registry', 'delta'},
    'models.side': BASIC | {'registry', 'delta'},
    'models.tuners': BASIC | {'registry', 'delta', 'models.trunks', 'models.side'},
    'models.backbones': BASIC | {'registry', 'delta', 'models.trunks', 'models.tuners'},
    'models.necks': BASIC | {'registry', 'delta'},
    'models.heads': BASIC | {'registry', 'delta'},
    'models.classifiers': BASIC | {'registry', 'delta'},
    'visualization': BASIC | {'registry', 'delta', 'models'},
    'datasets': BASIC | {'registry'},
    'engine': BASIC | {'registry', 'delta', 'models', 'datasets'},
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
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob('*.py'))


def module_name(file: str) -> str:
    return file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def layer_of(name: str) -> str | None:
    """Return the longest layer that a module's dotted name (inside hstpeft) belongs to."""
    parts = name.split('.')
    for end in range(len(parts), 0, -1):
        if '.'.join(parts[:end]) in LAYERS:
            return '.'.join(parts[:end])
    return None


def imports(file: str) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file."""
    package = ['hstpeft', *file.split('/')[:-1]]
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
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
    roots = {name.split('.')[0] for name in imports(file)}
    for package, owners in OWNERS.items():
        at_home = module_name(file).startswith(owners) if owners else False
        assert at_home or package not in roots, f'{file} imports {package}'


def test_a_trunk_knows_no_tuner_and_the_side_network_knows_only_tensors():
    for file in FILES:
        layers = imported_layers(file)
        if file.startswith('models/trunks/'):
            assert not layers & {'models.tuners', 'models.side', 'models.backbones'}, file
        if file.startswith('models/side/'):
            assert layers <= {'models.side', 'errors'}, file
        if file.startswith('delta/'):
            assert not any(name.startswith(('models', 'registry')) for name in layers), file


def test_the_rules_see_a_forbidden_import():
    """The parser must not be blind: relative, lazy and aliased imports count."""
    assert 'hstpeft.models.trunks.Trunk' in imports('models/tuners/base.py')
    assert not is_allowed('delta', 'models.trunks')
    assert not is_allowed('models.trunks', 'models.tuners')
    assert is_allowed('engine', 'models.tuners')
    assert layer_of('models.side.block') == 'models.side'


RESOLVE = """
import importlib, json, sys, warnings
warnings.filterwarnings('ignore')
import mmengine.registry as root
host, names = sys.argv[1], json.loads(sys.argv[2])
try:
    registries = importlib.import_module(f'{host}.registry')
    importlib.import_module(f'{host}.models')  # mmdet needs mmcv's compiled operators
except ImportError as error:
    print(json.dumps({'skip': str(error)}))
    raise SystemExit
root.init_default_scope(host)
missing = [
    name
    for registry, name in names
    # A host that lacks a registry (FUNCTIONS) uses mmengine's.
    if getattr(registries, registry, getattr(root, registry)).get(name) is None
]
print(json.dumps({'missing': missing}))
"""
HOSTS = ('mmpretrain', 'mmseg', 'mmdet')


@pytest.fixture(scope='module')
def registered() -> list[tuple[str, str]]:
    found = []
    for attribute, own in sorted(vars(registry).items()):
        if isinstance(own, Registry):
            own.import_from_location()
            found += [(attribute, f'hstpeft.{name}') for name in own.module_dict]
    return found


@pytest.fixture(scope='module')
def answers(registered):
    """One fresh interpreter a host, all at once: each spends its time on imports."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    running = {
        host: subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', RESOLVE, host, json.dumps(registered)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host in HOSTS
    }  # fmt: skip
    outputs = {host: process.communicate(timeout=300) for host, process in running.items()}
    return {host: (running[host].returncode, *output) for host, output in outputs.items()}


def test_the_registries_hold_our_classes(registered):
    names = {name for _, name in registered}
    assert {'hstpeft.TunedBackbone', 'hstpeft.HSTTuner', 'hstpeft.ViTTrunk'} <= names


@pytest.mark.parametrize('host', HOSTS)
def test_every_class_resolves_in_the_scope_of_a_host_without_custom_imports(host, answers):
    status, out, err = answers[host]
    assert status == 0, err
    answer = json.loads(out.strip().splitlines()[-1])
    if 'skip' in answer:
        pytest.skip(f'{host} is not importable here: {answer["skip"]}')
    assert answer['missing'] == []


WITHOUT_MMPRETRAIN = """
import sys
sys.modules['mmpretrain'] = None
from hstpeft.registry import MODELS
assert MODELS.get('hstpeft.TunedBackbone') is not None
assert MODELS.get('hstpeft.HMAClsHead') is None
"""


def test_a_dense_user_needs_no_mmpretrain():
    command = [sys.executable, '-W', 'ignore', '-c', WITHOUT_MMPRETRAIN]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
