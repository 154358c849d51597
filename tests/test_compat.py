"""Private names of other packages stand in hstpeft/compat.py alone, and each has a way without."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import SimpleNamespace

import mmengine.logging
import numpy as np
import pytest
import torch
from torch import nn

import hstpeft
import tools
from hstpeft import compat
from hstpeft.delta import load_checkpoint
from hstpeft.errors import UserError
from tests.support.paths import ROOT

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('hstpeft', 'tools', 'projects')
    for path in (ROOT / folder).rglob('*.py')
)
OWN = ('hstpeft', 'tools', 'projects')
# Public methods of named tuples, whose underscore only keeps them apart from the fields.
NAMED_TUPLE = {'_asdict', '_replace', '_fields', '_make'}
# Public too: `os._exit` of the standard library.
DOCUMENTED = {'_exit'}
# Python's own machinery, seen in every protocol, abstract class and autograd function.
MACHINERY = {'_is_protocol', '_is_runtime_protocol', '_abc_impl', '_backward_cls'}


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__') and name != '_'


def defined(tree: ast.AST) -> set[str]:
    """Names that a file itself gives to something, attributes of its own objects included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == 'self'
        ):
            found.add(node.attr)
    return found


def private_names(source: str) -> Iterator[str]:
    """Yield the private names of others that a file uses."""
    tree = ast.parse(source)
    own = defined(tree) | NAMED_TUPLE | DOCUMENTED
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] not in OWN:
            names = [*(node.module or '').split('.'), *(alias.name for alias in node.names)]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split('.')]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ('getattr', 'setattr', 'delattr', 'attrgetter')
        ):
            texts = [arg for arg in node.args if isinstance(arg, (ast.Constant, ast.JoinedStr))]
            texts = [ast.unparse(text).lstrip('f').strip('\'"') for text in texts]
            yield from (text for text in texts if is_private(text) and text not in own)


@pytest.mark.parametrize('file', [file for file in FILES if file != 'hstpeft/compat.py'])
def test_no_other_file_uses_a_private_name(file):
    source = (ROOT / file).read_text()
    assert not set(private_names(source)), f'{file}: avoid it, or move it to hstpeft/compat.py'
    assert 'torch.ops' not in source, file


@pytest.mark.parametrize(
    'source',
    [
        'import numpy as np\nnp._core.multiarray',
        'block._attn(x)',
        'self._metainfo',
        'model._config = cfg',
        'from timm.layers import _assert',
        'from numpy._core import multiarray',
        'import torch._inductor.config',
        "getattr(data, '_indices', None)",
        "getattr(self, f'_{name}')",
    ],
)
def test_the_search_sees_a_private_name(source):
    assert list(private_names(source))


@pytest.mark.parametrize(
    'source',
    ['class A:\n    def _own(self):\n        self._x = self._own()', 'pair._replace(a=1)', 'a.b'],
)
def test_the_search_leaves_our_own_names_alone(source):
    assert not list(private_names(source))


def classes() -> Iterator[type]:
    for package in (hstpeft, tools):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and value.__module__ == module.name:
                    yield value


def test_no_class_overrides_a_private_method_of_another_package():
    overridden = [
        f'{cls.__module__}.{cls.__name__}.{name} of {base.__module__}'
        for cls in classes()
        for name in vars(cls)
        if is_private(name) and name not in MACHINERY
        for base in cls.__mro__[1:]
        if base.__module__.split('.')[0] not in OWN and name in vars(base)
    ]
    assert not overridden


def test_the_versions_are_those_of_the_tested_environment():
    text = (ROOT / 'requirements' / 'runtime.txt').read_text()
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', text, re.MULTILINE))
    assert {name: pins[name] for name in compat.TESTED} == compat.TESTED


@pytest.fixture
def onednn():
    """Forget what was found out about oneDNN, before and after."""
    compat.onednn_linear.cache_clear()
    yield compat.onednn_linear
    compat.onednn_linear.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='torch without oneDNN')
def test_onednn_computes_a_linear(onednn):
    linear = nn.Linear(40, 24)
    x = torch.randn(3, 7, 40)
    with torch.no_grad():
        assert torch.allclose(onednn()(x, linear.weight, linear.bias), linear(x), atol=1e-5)


def other_arguments(*_):
    raise TypeError('unexpected arguments')


def other_sum(x, *_):
    return 2 * x


@pytest.mark.parametrize('operator', [None, other_arguments, other_sum])
def test_a_torch_without_that_operator_has_no_onednn_linear(onednn, monkeypatch, operator):
    monkeypatch.setattr(torch.ops, 'mkldnn', SimpleNamespace(_linear_pointwise=operator))
    assert onednn() is None
    monkeypatch.setattr(torch.ops, 'mkldnn', SimpleNamespace())
    onednn.cache_clear()
    assert onednn() is None


def test_a_change_in_place_changes_the_version():
    tensor = torch.zeros(2)
    before = compat.version(tensor)
    assert compat.version(tensor) == before
    tensor.add_(1)
    assert compat.version(tensor) != before


def test_a_tensor_without_a_version_counts_as_changed():
    with torch.inference_mode():
        tensor = torch.zeros(2)
    assert compat.version(tensor) != compat.version(tensor)


@pytest.mark.parametrize('writer', ['numpy._core.multiarray', 'numpy.core.multiarray'])
def test_checkpoints_load_whichever_numpy_wrote_them(tmp_path, writer):
    path = tmp_path / 'epoch_1.pth'
    content = {'state_dict': {}, 'rate': np.float64(0.5), 'history': np.arange(3.0)}
    own = np.empty(0).__reduce__()[0].__module__
    torch.save(content, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert own.encode() in raw
    path.write_bytes(raw.replace(own.encode(), writer.encode()))
    loaded = load_checkpoint(path)
    assert loaded['rate'] == 0.5
    assert loaded['history'].tolist() == [0, 1, 2]


def test_a_timm_that_names_its_attention_otherwise_is_one_clear_error():
    with pytest.raises(UserError, match=r'Linear has no _attn .* install timm==1\.'):
        compat.window_attention(nn.Linear(1, 1), torch.ones(1))


def test_without_the_names_of_mmengine_checks_see_what_there_is(monkeypatch):
    from mmengine.runner import runner

    cut = runner._SlicedDataset(list('abc'), 2)
    assert compat.whole_dataset(cut) == list('abc')
    monkeypatch.delattr(runner, '_SlicedDataset')
    assert compat.whole_dataset(cut) is cut
    assert compat.chosen_indices(object()) is None
    assert compat.loader_config(object(), 'train_dataloader') is None
    monkeypatch.setattr(mmengine.logging, 'MMLogger', object)
    compat.close_loggers()
    with pytest.raises(UserError, match='install onedl-mmengine=='):
        compat.name_classes(object(), ('cat',))
