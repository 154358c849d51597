"""The local memory: the last samples that training has seen.

Shapes: M rows, W width, B samples.
"""

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.distributed import all_gather
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.registry import MODELS

UPDATES = ('always', 'divisible', 'never')


@MODELS.register_module()
class MemoryQueue(nn.Module):
    """A ring of rows; every write replaces the oldest.

    Rows, pointer and labels are buffers, so they are state of the delta. With several processes
    every one writes the samples of all, in the order of the ranks, and the rings stay equal.

    Args:
        dims: Width W of a row; the head gives it.
        size: Number of rows M. They start as random directions of unit length, in every process
            the same whatever its seed: DDP does not send the buffers around.
        update: ``always``: the ring wraps around, and keeps the end of a batch that is larger;
            ``divisible``: as officially, nothing is written (without a warning) if the batch of
            all processes does not divide M; ``never``.

    Attributes:
        rows: (M, W).
        pointer: (1,), the row that is written next.
        labels: (M,), the class of each row, -1 where nothing was written yet.

    Raises:
        UserError: The size is below 1 or the update unknown.
    """

    def __init__(self, dims: int, size: int = 512, update: str = 'always') -> None:
        super().__init__()
        if size < 1:
            raise UserError(
                f'head.local_memory.size {size} must be at least 1; without a local memory: '
                'head.local_memory=None'
            )
        if update not in UPDATES:
            raise UserError(f'head.local_memory.update {update!r} is unknown: use one of {UPDATES}')
        self.update = update
        fixed = torch.Generator().manual_seed(0)
        rows = torch.randn(size, dims, generator=fixed, device='cpu')
        self.register_buffer('rows', F.normalize(rows).to(torch.get_default_device()))
        self.register_buffer('pointer', torch.zeros(1, dtype=torch.long))
        self.register_buffer('labels', torch.full((size,), -1))

    @torch.no_grad()
    def write(self, rows: Tensor, labels: Tensor) -> None:
        """Replace the oldest rows.

        Args:
            rows: (B, W); a batch larger than M leaves its last M rows.
            labels: (B,).
        """
        if self.update == 'never':
            return
        rows, labels = gather(rows.detach().to(self.rows.dtype)), gather(labels)
        size, count = len(self.rows), len(rows)
        if self.update == 'divisible' and size % count:
            return
        places = (self.pointer + torch.arange(count, device=rows.device)) % size
        self.rows[places[-size:]] = rows[-size:]
        self.labels[places[-size:]] = labels[-size:]
        self.pointer.add_(count).remainder_(size)


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes in the order of their ranks.

    Args:
        x: (B, ...); B may differ between the processes.
    """
    if get_world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(get_world_size())]
    all_gather(counts, counts[0].new_tensor([len(x)]))
    counts = [int(count) for count in counts]
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.zeros_like(padded) for _ in counts]
    all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
