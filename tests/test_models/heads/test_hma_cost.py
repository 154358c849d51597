"""HMA's head multiplies far less than its equations do; counted, so that no clock is needed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hstpeft.models.heads import HMAClsHead, MemoryAttention
from hstpeft.official.hma import join_hma
from hstpeft.oracle.literal.hma import HMAOptions, LiteralHMA


def count(run: Callable[[], Tensor]) -> int:
    """Count the operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        run().sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    'options, limit',
    [
        (dict(batch_attention=False, global_memory_per_class=0), 0.02),
        (dict(batch_attention_at_test=True), 0.05),
    ],
    ids=['local memory', 'both memories of 100 classes'],
)
def test_a_step_on_32_samples_and_512_rows(options, limit):
    with torch.device('meta'):
        head = HMAClsHead(100, 768, attention=dict(drop_rate=0.0), **options)
        features = torch.empty(32, 768)
    official = join_hma({}, {f'head.{key}': value for key, value in head.state_dict().items()})
    literal = LiteralHMA(official, HMAOptions(batch_attention=head.batch_read is not None))
    if head.global_memories is not None:
        # The literal form looks the classes up one by one, which needs values.
        literal.global_memories.data = torch.empty(1600, 768, device='meta')
    ours, expected = count(lambda: head((features,))), count(lambda: literal(features)[1])
    assert ours < limit * expected


@pytest.mark.parametrize('size', [1, 32, 128, 2048])
@pytest.mark.parametrize('num_rows', [512, 2048])
def test_the_cheaper_form_is_taken(size, num_rows):
    with torch.device('meta'):
        block = MemoryAttention(832, 4)
        x = torch.empty(size, 832, requires_grad=True)
        shared = torch.empty(num_rows, 832)
    taken = count(lambda: block(x, x[:, None], shared)[0])
    costs = []
    for form in (block._folded, block._projected):
        block._folded = block._projected = form
        costs.append(count(lambda: block(x, x[:, None], shared)[0]))
    assert taken == min(costs) < max(costs)
