"""Registries of hstpeft: children of mmengine's, so that ``hstpeft.X`` resolves in any host.

Light on purpose: mmengine imports this file when it meets the prefix ``hstpeft.`` and the
``locations`` only on the first look-up.
"""

from importlib.util import find_spec

from mmengine import registry as root

# A user of mmsegmentation or mmdetection alone does without what builds on mmpretrain.
_ON_MMPRETRAIN = ['hstpeft.models.heads', 'hstpeft.models.classifiers']
_MODELS = ['hstpeft.models', *(_ON_MMPRETRAIN if find_spec('mmpretrain') else [])]

DATASETS = root.Registry(
    'dataset', parent=root.DATASETS, scope='hstpeft', locations=['hstpeft.datasets']
)
DATA_SAMPLERS = root.Registry(
    'data sampler', parent=root.DATA_SAMPLERS, scope='hstpeft', locations=['hstpeft.engine']
)
FUNCTIONS = root.Registry(
    'function', parent=root.FUNCTIONS, scope='hstpeft', locations=['hstpeft.engine']
)
HOOKS = root.Registry('hook', parent=root.HOOKS, scope='hstpeft', locations=['hstpeft.engine'])
LOOPS = root.Registry('loop', parent=root.LOOPS, scope='hstpeft', locations=['hstpeft.engine'])
MODELS = root.Registry('model', parent=root.MODELS, scope='hstpeft', locations=_MODELS)
MODEL_WRAPPERS = root.Registry(
    'model_wrapper', parent=root.MODEL_WRAPPERS, scope='hstpeft', locations=['hstpeft.engine']
)
OPTIM_WRAPPERS = root.Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='hstpeft', locations=['hstpeft.engine']
)
OPTIM_WRAPPER_CONSTRUCTORS = root.Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='hstpeft',
    locations=['hstpeft.engine'],
)
TRANSFORMS = root.Registry(
    'transform', parent=root.TRANSFORMS, scope='hstpeft', locations=['hstpeft.datasets']
)
