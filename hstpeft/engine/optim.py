"""Which parameters the optimiser gets, with which decay, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS
from torch import nn

from hstpeft.engine.distributed import unwrapped
from hstpeft.errors import UserError, nearest
from hstpeft.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

_OPTIONS = ('flat_decay_mult', 'token_decay_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DeltaOptimWrapperConstructor:
    """Give the optimiser the trainable parameters, in two groups: with and without decay.

    Frozen parameters never enter the optimiser. Matrices and kernels decay; vectors (norms,
    biases) and tokens by the recipe's rule. Tokens are the tuner's, and the trunk's prefix tokens
    and position embeddings where a tuner trains them.

    Args:
        optim_wrapper_cfg: ``optimizer`` and options of the wrapper.
        paramwise_cfg: ``flat_decay_mult`` (default 0): factor on the weight decay of vectors;
            ``token_decay_mult`` (default 1): of tokens, as in the official HST.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise = dict(paramwise_cfg or {})
        for name in paramwise:
            if name not in _OPTIONS:
                raise UserError(
                    f'optim_wrapper.paramwise_cfg {name!r} is unknown: {nearest(name, _OPTIONS)}'
                )
        self.flat_decay_mult = paramwise.get('flat_decay_mult', 0.0)
        self.token_decay_mult = paramwise.get('token_decay_mult', 1.0)
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser wrapper for a model (or a wrapped one)."""
        model = unwrapped(model)
        backbone = getattr(model, 'backbone', None)
        parts = [getattr(backbone, part, None) for part in ('trunk', 'tuner')]
        tokens = {id(p) for part in parts if part is not None for p in part.token_parameters()}
        decay = self.optimizer_cfg.get('weight_decay', 0.0)
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                groups.setdefault(decay * self._factor(parameter, tokens), []).append(parameter)
        if not groups:
            raise UserError('nothing is trainable: the model has neither a tuner nor a head')
        for value, members in groups.items():
            print_log(
                f'optimiser: {len(members)} tensors, {sum(p.numel() for p in members):,} values, '
                f'weight decay {value:g}',
                logger='current',
            )
        params = [{'params': members, 'weight_decay': value} for value, members in groups.items()]
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': params})
        return ROOT_OPTIM_WRAPPERS.build(
            {'type': 'OptimWrapper', **self.wrapper_cfg, 'optimizer': optimizer}
        )

    def _factor(self, parameter: nn.Parameter, tokens: set[int]) -> float:
        if id(parameter) in tokens:
            return self.token_decay_mult
        return self.flat_decay_mult if parameter.dim() < 2 else 1.0


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Run the forward pass under bfloat16 autocast, on a GPU or a CPU; no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and whatever the plain wrapper does."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
