"""Registries of hstpeft: children of mmengine's, so that ``hstpeft.X`` resolves in any host.

Light on purpose: mmengine imports this file when it meets the prefix ``hstpeft.`` and the
``locations`` only on the first look-up.
"""

from mmengine import registry as root

DATASETS = root.Registry(
    'dataset', parent=root.DATASETS, scope='hstpeft', locations=['hstpeft.datasets']
)
FUNCTIONS = root.Registry(
    'function', parent=root.FUNCTIONS, scope='hstpeft', locations=['hstpeft.engine']
)
HOOKS = root.Registry('hook', parent=root.HOOKS, scope='hstpeft', locations=['hstpeft.engine'])
MODELS = root.Registry('model', parent=root.MODELS, scope='hstpeft', locations=['hstpeft.models'])
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
