"""What is learned on top of a trunk: one file per method.

Every module of this folder is imported and its tuners are listed here, so that a new method needs
no entry anywhere.
"""

import inspect
import pkgutil
from importlib import import_module

from hstpeft.models.tuners.base import Tuner, check_needs

__all__ = ['Tuner', 'check_needs']

for _module in pkgutil.iter_modules(__path__, f'{__name__}.'):
    for _name, _kind in inspect.getmembers(import_module(_module.name), inspect.isclass):
        _is_its_own = _kind.__module__.startswith(_module.name) and _name not in __all__
        if _is_its_own and issubclass(_kind, Tuner):
            globals()[_name] = _kind
            __all__ += [_name]
