"""Distributed training that also works without a GPU."""

import datetime
import gc
import os

import torch
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from torch import Tensor, nn
from torch.distributed import destroy_process_group, is_initialized
from torch.distributed import init_process_group as _init
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.registry import MODEL_WRAPPERS

TIMEOUT = 1800
"""Seconds that a process waits for the others; torch's own default."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def init_process_group(launcher: str, timeout: float = TIMEOUT) -> None:
    """Start gloo on a machine without a GPU; mmengine's own start needs one.

    With a GPU or without a launcher nothing happens: mmengine does it.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        timeout: Seconds that a process waits for the others, ``env_cfg.dist_cfg.timeout``.

    Raises:
        UserError: The timeout is no number of seconds.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise UserError(f'env_cfg.dist_cfg.timeout {timeout!r} must be a number of seconds above 0')
    if launcher == 'pytorch' and not torch.cuda.is_available() and not is_initialized():
        _init('gloo', timeout=datetime.timedelta(seconds=timeout))


def restarted() -> bool:
    """Whether torchrun has started this process again after one of the job died."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the host's model, without DDP around it if there is any."""
    return model.module if is_model_wrapper(model) else model


def end_process_group() -> None:
    """Leave the process group, whoever started it, at the end of a job that succeeded.

    A gloo thread may still be dropping the tensors of the last collective. If the interpreter
    ends meanwhile the process aborts, and torchrun kills the others, which may be writing.
    Afterwards every process is the main one for mmengine, so it must be the last call.
    """
    if is_initialized():
        # Only the last reference joins the threads. A runner is a cycle, and its DDP holds one.
        gc.collect()
        destroy_process_group()


@MODEL_WRAPPERS.register_module()
class DeviceAwareDDP(MMDistributedDataParallel):
    """mmengine's DDP for GPUs and CPUs alike.

    Args:
        module: The model, on its device.
        device_ids: Ignored on the CPU, where torch allows none.
        sync_bn: Let every BatchNorm use the statistics of the whole global batch. Then N
            processes train the same model as one. An `nn.SyncBatchNorm` does so anyway, on a
            CPU too.
        kwargs: Options of mmengine's `MMDistributedDataParallel`.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        sync_bn: bool = False,
        **kwargs,
    ) -> None:
        on_gpu = torch.cuda.is_available()
        if sync_bn and on_gpu:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        elif not on_gpu:
            # torch's own SyncBatchNorm, which a config can ask for, refuses to train on a CPU.
            module = _synced(module, BATCH_NORMS if sync_bn else (nn.SyncBatchNorm,))
        if on_gpu:
            kwargs['device_ids'] = device_ids or [int(os.environ.get('LOCAL_RANK', 0))]
        kwargs.setdefault('broadcast_buffers', False)
        super().__init__(module=module, **kwargs)


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, of 0 to 3 dimensions; torch's needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, ...) with the statistics of all processes' x."""
        if not self.training:
            # Without running statistics it uses those of the batch, as every BatchNorm.
            own = self.running_mean is None
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, own, eps=self.eps)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # sums and counts need it
        axes = [0, *range(2, x.dim())]
        count = wide.new_full((1,), x.numel() / x.shape[1])
        sums = all_reduce(torch.cat([wide.sum(axes), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1].detach()
        if total < 2:
            raise UserError(
                f'a BatchNorm in training has 1 value a channel in all processes (input '
                f'{tuple(x.shape)}): give larger batches or images, or another norm'
            )
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / total
        if self.track_running_stats:
            self._track(mean.detach(), (variance * total / (total - 1)).detach())
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch; without momentum, average all."""
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _synced(module: nn.Module, kinds: tuple[type[nn.Module], ...] = BATCH_NORMS) -> nn.Module:
    """Replace every BatchNorm of some kinds by one synced over processes, keeping its tensors."""
    if isinstance(module, kinds):
        synced = CPUSyncBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        synced.train(module.training)
        named = (module.named_parameters, module.named_buffers)
        for name, tensor in (item for of in named for item in of(recurse=False)):
            setattr(synced, name, tensor)
        return synced
    for name, child in module.named_children():
        setattr(module, name, _synced(child, kinds))
    return module
