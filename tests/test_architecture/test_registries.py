"""Hosts find every class of ours, and a host alone is enough."""

import json
import os
import subprocess
import sys

import pytest
from mmengine.registry import Registry

from hstpeft import registry
from tests.support.paths import ROOT

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
    """One fresh interpreter per host, all at once: each spends its time on imports."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_dense_user_needs_no_mmpretrain():
    command = [sys.executable, '-W', 'ignore', '-c', WITHOUT_MMPRETRAIN]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
