"""The rows and columns of the matrix: every tuner, tiny trunks of every family."""

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hstpeft.models.trunks import Trunk
from tests.support import models
from tests.support.families import TRUNKS as FAMILIES

TRUNKS = {
    **FAMILIES,
    'swin': {
        **FAMILIES['swin'],
        'arch_options': {**FAMILIES['swin']['arch_options'], 'depths': (1, 1, 4, 1)},
    },
}
WIDTHS = {'vit': 32, 'eva': 32, 'swin': 128, 'hvt': 32}
CLASSES = 5
# Trunks by what methods need of them; written out, so that a lost capability is noticed.
EVERY = ('vit', 'eva', 'swin', 'hvt')
ONE_SEQUENCE = ('vit', 'eva')
FRONT_TOKENS = ('vit', 'eva', 'swin')
MAPS = ('vit', 'eva', 'swin')
ONE_WIDTH = ('vit', 'eva', 'hvt')
LINEARS = ('qkv', 'proj', 'fc1', 'fc2')


def row(kind: str, trunks: tuple[str, ...] = EVERY, **options: Any) -> tuple[dict, tuple[str, ...]]:
    """Make a row: the config of a tuner, and the trunks that it is defined for."""
    return dict(type=f'hstpeft.{kind}', **options), trunks


TUNERS = {
    'frozen': row('FrozenTuner'),
    'full': row('FullTuner'),
    'hst': (models.hst_config(), ONE_SEQUENCE),
    'arc': row('ARCTuner', adapter_dims=4),
    'arc-att': row('ARCTuner', positions=['attention']),
    'lora': row('LoRATuner', positions=list(LINEARS), rank=2),
    'lora-q-v': row('LoRATuner', positions=['q', 'v'], rank=2),
    'dora': row('HFPeftTuner', peft_type='DORA', r=2),
    'sa2vp': row('SA2VPTuner', ('vit', 'swin'), inner_dims=4),
    'sa2vp-accelerated': row('SA2VPTuner', ('vit',), accelerated=True),
    'memory-tokens': row('MemoryTokensTuner', ONE_SEQUENCE, num_memory_tokens=2),
    'memory-tokens-standard': row('MemoryTokensTuner', ONE_SEQUENCE, mode='standard'),
    'ssf': row('SSFTuner'),
    'vpt': row('VPTTuner', FRONT_TOKENS, num_tokens=2),
    'vpt-shallow': row('VPTTuner', FRONT_TOKENS, deep=False),
    'bitfit': row('SelectiveTuner'),
    'apla': row('SelectiveTuner', parts=['attention_proj']),
    'last-blocks': row('SelectiveTuner', last_blocks=1),
    'adaptformer': row('AdaptFormerTuner'),
    'adapter-plus': row('AdapterPlusTuner'),
    'houlsby': row('AdapterPlusTuner', form='houlsby', train_norms=True),
    'repadapter': row('RepAdapterTuner', adapter_dims=4),
    'fact-tt': row('FacTTuner', ONE_WIDTH, rank=4),
    'fact-tk': row('FacTTuner', ONE_WIDTH, form='tk', rank=4),
    'convpass': row('ConvpassTuner', MAPS, adapter_dims=4),
    'mona': row('MonaTuner', MAPS, adapter_dims=4),
}
DEFINED = [(name, trunk) for name, (_, trunks) in TUNERS.items() for trunk in trunks]
UNDEFINED = [(name, trunk) for name in TUNERS for trunk in TRUNKS if trunk not in TUNERS[name][1]]
REFUSAL = r'is not defined for a|does not exist for a Swin'
MERGES = (
    'frozen', 'full', 'arc', 'arc-att', 'lora', 'lora-q-v', 'dora', 'ssf', 'bitfit', 'apla', 'last-blocks',
    'repadapter', 'fact-tt', 'fact-tk',
)  # fmt: skip
UNMERGEABLE = [pair for pair in DEFINED if pair[0] not in MERGES or pair in (('arc', 'swin'),)]
NOT_AS_TRUNK = (
    'hst', 'arc', 'sa2vp', 'sa2vp-accelerated', 'memory-tokens', 'memory-tokens-standard', 'ssf',
    'vpt', 'vpt-shallow', 'mona', 'adapter-plus', 'houlsby',
)  # fmt: skip
"""Methods whose first function is another one than the bare trunk's."""


@functools.cache
def pretrained(trunk: str) -> dict[str, Tensor]:
    """Draw the weights of a trunk once."""
    tensors = models.MODELS.build(dict(TRUNKS[trunk])).timm_tensors()
    return models.draw({name: value.shape for name, value in tensors.items()}, seed=3)


def classifier(tuner: str, trunk: str, **options: Any) -> dict[str, Any]:
    """Config of a classifier with drawn, and so pre-trained, weights.

    Args:
        tuner: One of `TUNERS`.
        trunk: One of `TRUNKS`.
        options: Of the backbone.
    """
    width = models.SIDE['side_dims'][-1] if tuner == 'hst' else WIDTHS[trunk]
    head = 'hstpeft.TwoBranchClsHead' if tuner.startswith('sa2vp') else 'LinearClsHead'
    parts = dict(neck=dict(type='hstpeft.PooledNorm', in_channels=width)) if tuner == 'hst' else {}
    return dict(
        type='ImageClassifier',
        data_preprocessor=models.MEAN_STD,
        backbone=dict(
            type='hstpeft.TunedBackbone',
            trunk={**TRUNKS[trunk], 'weights': pretrained(trunk)},
            tuner=dict(TUNERS[tuner][0]),
            **options,
        ),
        head=dict(type=head, num_classes=CLASSES, in_channels=width),
        **parts,
    )


def _of_linears(trunk: Trunk, value: Callable[[nn.Linear], int], roles=LINEARS) -> int:
    found = [(i, role) for i in range(trunk.num_layers) for role in trunk.layer_names(i)]
    return sum(value(trunk.layer(i, role)) for i, role in found if role in roles)


def _norms(trunk: Trunk) -> int:
    norms = [m for m in trunk.modules() if isinstance(getattr(m, 'weight', None), nn.Parameter)]
    return sum(2 * len(m.weight) for m in norms if m.weight.dim() == 1)


def _cls_tokens(trunk: Trunk) -> int:
    return int(trunk.cls_token is not None)


COUNTS: dict[str, Callable[[Trunk], int]] = {
    'frozen': lambda t: 0,
    'full': lambda t: sum(p.numel() for p in t.running_parameters()),
    'arc': lambda t: 2 * sum(4 * c for c in t.stage_dims) + 2 * sum(4 + c for c in t.block_dims),
    'arc-att': lambda t: sum(50 * c for c in t.stage_dims) + sum(50 + c for c in t.block_dims),
    'lora': lambda t: _of_linears(t, lambda x: 2 * (x.in_features + x.out_features)),
    'memory-tokens': lambda t: (2 + _cls_tokens(t)) * t.embed_dims,
    'memory-tokens-standard': lambda t: (5 * t.num_layers + _cls_tokens(t)) * t.embed_dims,
    'ssf': lambda t: 2 * sum(
        math.prod(t.layer(i, role).weight.shape[:1])
        for i in (None, *range(t.num_layers))
        for role in t.layer_names(i)
    ),
    'vpt': lambda t: 2 * sum(t.block_dims),
    'vpt-shallow': lambda t: 5 * t.block_dims[0],
    'adaptformer': lambda t: sum(2 * 64 * c + 64 + c for c in t.block_dims),
    'adapter-plus': lambda t: sum(2 * 8 * c + 8 + 2 * c for c in t.block_dims),
    'houlsby': lambda t: sum(2 * (2 * 8 * c + 8 + 2 * c) for c in t.block_dims) + _norms(t),
    'lora-q-v': lambda t: sum(2 * 2 * 2 * c for c in t.block_dims),
    'dora': lambda t: sum(2 * 4 * c + 3 * c for c in t.block_dims),
    'apla': lambda t: _of_linears(t, lambda x: x.weight.numel() + x.out_features, ('proj',)),
    'repadapter': lambda t: sum(2 * (4 * c + 4 + 2 * c + c) for c in t.block_dims),
    'fact-tt': lambda t: 2 * 4 * t.embed_dims + t.num_layers * 12 * 4**2,
    'fact-tk': lambda t: 2 * 4 * t.embed_dims + 4**3 + 4 * 12 * t.num_layers,
    'convpass': lambda t: sum(2 * (2 * 4 * c + 4 + c + 9 * 4**2 + 4) for c in t.block_dims),
    'mona': lambda t: sum(
        2 * (4 * c + 2 * 4 * c + 4 + c + (9 + 25 + 49 + 3) * 4 + 4**2 + 4) for c in t.block_dims
    ),
}  # fmt: skip
"""Trained values of a tuner in closed form, of a trunk without it."""
