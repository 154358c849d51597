"""Which parameters the optimiser gets, with which decay, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

_OPTIONS = ('flat_decay_mult', 'token_decay_mult', 'layer_decay')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DeltaOptimWrapperConstructor:
    """Give the optimiser the trainable parameters, in groups of one weight decay and one rate.

    Frozen parameters never enter the optimiser. Matrices and kernels decay; vectors (norms,
    biases) and tokens by the recipe's rule. Tokens are the tuner's, and the trunk's prefix tokens
    and position embeddings where a tuner trains them.

    Layer-wise rates, as ViTs are tuned (BEiT, MAE): with n blocks that run, block i of the trunk
    learns at ``lr * layer_decay ** (n - i)``, what stands before the blocks at ``lr * layer_decay
    ** (n + 1)``. A Swin's blocks are counted through all stages, and a patch merging learns as the
    block before it. The norms behind the blocks, the tuner and the head learn at ``lr``.
    Schedulers of mmengine scale each group's own rate.

    Args:
        optim_wrapper_cfg: ``optimizer`` and options of the wrapper.
        paramwise_cfg: ``flat_decay_mult`` (default 0): factor on the weight decay of vectors;
            ``token_decay_mult`` (default 1): of tokens, as in the official HST; ``layer_decay``
            (default 1, all learn alike), e.g. 0.75.

    Raises:
        UserError: An unknown rule; ``layer_decay`` out of range, without ``lr``, or where nothing
            of the trunk's own is trained.
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
        self.layer_decay = paramwise.get('layer_decay', 1.0)
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                f'optim_wrapper.paramwise_cfg layer_decay {self.layer_decay} must be above 0, and 1 '
                'at most'
            )
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser wrapper for a model (or a wrapped one)."""
        model = unwrapped(model)
        backbone = getattr(model, 'backbone', None)
        parts = [getattr(backbone, part, None) for part in ('trunk', 'tuner')]
        tokens = {id(p) for part in parts if part is not None for p in part.token_parameters()}
        decay = self.optimizer_cfg.get('weight_decay', 0.0)
        scales = self._scales(parts[0])
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                key = decay * self._factor(parameter, tokens), scales.get(id(parameter), 1.0)
                groups.setdefault(key, []).append(parameter)
        if not groups:
            raise UserError('nothing is trainable: the model has neither a tuner nor a head')
        params = [self._group(*key, members) for key, members in groups.items()]
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': params})
        return ROOT_OPTIM_WRAPPERS.build(
            {'type': 'OptimWrapper', **self.wrapper_cfg, 'optimizer': optimizer}
        )

    def _group(self, decay: float, scale: float, members: list[nn.Parameter]) -> dict[str, Any]:
        """Describe a group to the optimiser, and in the log."""
        own_rate = {} if scale == 1 else {'lr': self.optimizer_cfg['lr'] * scale}
        rate = f', rate {own_rate["lr"]:g}' if own_rate else ''
        print_log(
            f'optimiser: {len(members)} tensors, {sum(p.numel() for p in members):,} values, '
            f'weight decay {decay:g}{rate}',
            logger='current',
        )
        return {'params': members, 'weight_decay': decay, **own_rate}

    def _scales(self, trunk: nn.Module | None) -> dict[int, float]:
        """Return the factors on the rate of what is trained of the trunk itself, by id."""
        if self.layer_decay == 1:
            return {}
        trained = set()
        if trunk is not None:
            depths = trunk.depths()
            trained = {id(p) for p in trunk.parameters() if p.requires_grad} & depths.keys()
        if not trained:
            raise UserError(
                f'optim_wrapper.paramwise_cfg layer_decay {self.layer_decay} has no effect: nothing '
                'of the trunk itself is trained: leave it out, or use hstpeft.FullTuner or '
                'hstpeft.SelectiveTuner'
            )
        if 'lr' not in self.optimizer_cfg:
            raise UserError('optim_wrapper.optimizer has no lr, which layer_decay is a factor on')
        return {i: self.layer_decay ** (trunk.num_layers + 1 - depths[i]) for i in trained}

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
