"""NaN and infinity stop a run before they reach a weight or a file."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hstpeft.engine.distributed import unwrapped
from hstpeft.engine.faults.steps import before_each_step
from hstpeft.errors import NonFiniteError, join_first
from hstpeft.registry import HOOKS

_ADVICE = (
    'lower optim_wrapper.optimizer.lr, take --bf16 instead of --amp, or look at the images and '
    'labels of this batch'
)


class _Batch(NamedTuple):
    """An iteration since the last step of the optimiser: its number, its images and its losses."""

    iteration: int
    images: list[str]
    losses: dict[str, Tensor]


@HOOKS.register_module()
class FiniteNumbersHook(Hook):
    """Stop training before a step whose losses or gradients are NaN or infinite.

    All losses since the last step and all gradients are looked at together, so that a GPU is
    waited for once a step. Under float16 loss scaling infinite gradients are left to the scaler and
    `SkippedStepsHook`; infinite losses are not. Nor is a checkpoint or a delta written whose weights
    are not finite, as they are after a step of too high a rate.

    Raises:
        NonFiniteError: Names the loss, gradient or weight, and the images of the batch.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batches: list[_Batch] = []
        self._data: Any = None
        self._handles: list[RemovableHandle] = []
        self._runner: Runner | None = None
        self._from_the_start: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Look at the weights that training starts from, and from now on at each step."""
        model = unwrapped(runner.model)
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        bad = set(_not_finite(dict(model.named_parameters()))) & trainable
        if bad:
            raise NonFiniteError(
                f'{join_first(sorted(bad))}: NaN or infinite before the first step: start from another '
                'checkpoint'
            )
        # A host's masks may be filled with -inf on purpose.
        self._from_the_start = set(_not_finite({'state_dict': model.state_dict()}))
        self._runner = runner
        self._handles = before_each_step(runner, self._look)
        self._handles.append(model.register_forward_hook(self._keep_losses, with_kwargs=True))

    def after_train(self, runner: Runner) -> None:
        """Let go of model and optimisers."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._runner, self._data = [], None, None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the images that the next losses belong to."""
        self._data = data_batch
        self._batches.append(_Batch(runner.iter + 1, _image_paths(data_batch), {}))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the losses where a loss scaler has skipped the step that was due."""
        single = not isinstance(runner.optim_wrapper, OptimWrapperDict)
        if self._batches and single and runner.optim_wrapper.should_update():
            self._check([])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to write what is NaN or infinite."""
        parts = {key: checkpoint.get(key) for key in ('state_dict', 'optimizer')}
        bad = [name for name in _not_finite(parts) if name not in self._from_the_start]
        if bad:
            raise NonFiniteError(
                f'{join_first(bad)}: NaN or infinite at iteration {runner.iter + 1}, so that this '
                f'checkpoint is not written and the last one stays: {_ADVICE}'
            )

    def _keep_losses(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if kwargs.get('mode') != 'loss' or not isinstance(output, Mapping) or not self._batches:
            return
        for name, value in output.items():
            parts = value if isinstance(value, (list, tuple)) else [value]
            if 'loss' in name:  # mmengine's rule for what is summed
                kept = [p.detach() if p.dim() == 0 else p.detach().mean() for p in parts]
                self._batches[-1].losses.update((f'{name}#{i}', x) for i, x in enumerate(kept))

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A fused optimiser steps, or not, by itself; its gradients are still scaled.
        scaled = getattr(optimizer, 'found_inf', None) is not None
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        self._check([] if scaled else [p for p in parameters if p.grad is not None])

    def _check(self, parameters: list[nn.Parameter]) -> None:
        """Raise if a loss since the last step, or one of these gradients, is not finite."""
        values = [loss for batch in self._batches for loss in batch.losses.values()]
        if parameters:
            # The norm of squares is the quickest by far; they may overflow though no gradient does.
            values.append(get_total_norm([p.grad for p in parameters]))
        if values:
            together = torch.stack([value.to(values[-1].device, torch.float64) for value in values])
            if not together.isfinite().all().item() and self._is_bad(parameters):
                raise NonFiniteError(self._explain(parameters))
        self._batches.clear()

    def _is_bad(self, parameters: list[nn.Parameter]) -> bool:
        tensors = [p.grad for p in parameters]
        tensors += [loss for batch in self._batches for loss in batch.losses.values()]
        return bool(_not_finite(tensors))

    def _explain(self, parameters: list[nn.Parameter]) -> str:
        batch, what = self._batches[-1], ''
        for batch in self._batches:
            bad = {n: v.item() for n, v in batch.losses.items() if not v.isfinite()}
            what = ', '.join(f'{name.rpartition("#")[0]} is {bad[name]}' for name in list(bad)[:3])
            if what:
                break
        if not what:
            ids = {id(p) for p in parameters if not p.grad.isfinite().all()}
            names = [n for n, p in unwrapped(self._runner.model).named_parameters() if id(p) in ids]
            what = f'the gradient of {join_first(names)} is NaN or infinite'
        where = f'iteration {batch.iteration}'
        if isinstance(self._runner.train_loop, EpochBasedTrainLoop):
            where = f'epoch {self._runner.epoch + 1}, {where}'
        if get_world_size() > 1:
            where += f', rank {get_rank()}'
        pixels = _broken_images(self._data) if batch is self._batches[-1] else []
        if pixels:
            where += f', where the pixels of {join_first(pixels)} are NaN or infinite'
        return (
            f'{what} at {where}: the weights are those before this step, the last checkpoint stays. '
            f'Images of the batch: {join_first(batch.images) or "unknown"}. Remedy: {_ADVICE}'
        )


def _image_paths(data: Any) -> list[str]:
    """Return the paths of the images whose samples are somewhere in a batch."""
    if isinstance(data, Mapping):
        data = data.get('data_samples')
    if isinstance(data, (list, tuple)):
        return [path for part in data for path in _image_paths(part)]
    return [str(data.img_path)] if hasattr(data, 'img_path') else []


def _broken_images(data: Any) -> list[str]:
    """Return the paths of those images of a batch whose pixels are not finite."""
    inputs = data.get('inputs') if isinstance(data, Mapping) else None
    paths = _image_paths(data)
    if inputs is None or isinstance(inputs, Mapping) or len(inputs) != len(paths):
        return []
    return [path for path, image in zip(paths, inputs, strict=True) if _not_finite([image])]


def _not_finite(values: Any) -> list[str]:
    """Name the tensors of a nested structure that hold NaN or infinity."""
    return [
        name for name, x in _tensors(values) if x.is_floating_point() and not x.isfinite().all()
    ]


def _tensors(values: Any, name: str = '') -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        yield name.removeprefix('.').removeprefix('state_dict.'), values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, f'{name}.{key}')
    elif isinstance(values, (list, tuple)):
        for key, value in enumerate(values):
            yield from _tensors(value, f'{name}.{key}')
