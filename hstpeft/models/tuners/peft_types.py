"""Which methods of HF peft run on a trunk, and which of their options."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from hstpeft.errors import UserError, nearest
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import READERS
from hstpeft.models.tuners.base import check_float32

VARIANTS = {'DORA': ('LORA', {'use_dora': True})}
"""Methods that peft has as an option of another one."""
_VPT = 'use hstpeft.VPTTuner'
_REFUSED = {
    'ADALORA': 'it moves its rank between layers by a call after every step, which no runner makes; '
    "use 'LORA'",
    'ADAMSS': "it clusters the frozen weights anew in every process; use 'LORA'",
    'ADAPTION_PROMPT': f"it needs a language model's attention; {_VPT}",
    'FROD': "it decomposes the frozen weights, which makes a delta as large as a trunk; use 'PSOFT'",
    'GLORA': "it takes Linears of torch's very class alone, and a trunk has its own; use 'LORA'",
    'OSF': 'it trains a decomposition of the frozen weights, which makes a delta as large as a trunk; '
    'use hstpeft.FullTuner',
    'POLY': "it needs the number of a task with every image; use 'LORA'",
    'SHADOW': "it runs a smaller copy of a language model beside it; use 'LORA'",
    'TRAINABLE_TOKENS': f'it trains the embeddings of words; {_VPT}',
    'XLORA': "it mixes trained adapters of a language model; use 'LORA'",
}
_FROM_ELSEWHERE = {
    **dict.fromkeys(
        ('target_modules', 'exclude_modules', 'layers_to_transform', 'layers_pattern',
         'target_parameters', 'layer_replication'),
        'tuner.positions says where the adapters stand',
    ),
    'bias': 'hstpeft.SelectiveTuner trains biases',
    'modules_to_save': 'the head is trained anyway, and hstpeft.SelectiveTuner trains parts of a trunk',
    **dict.fromkeys(
        ('alora_invocation_tokens', 'arrow_config', 'ensure_weight_tying', 'megatron_config',
         'megatron_core', 'trainable_token_indices'),
        'it is for language models',
    ),
    **dict.fromkeys(
        ('corda_config', 'eva_config', 'loftq_config', 'lora_ga_config'),
        'it needs data, or quantised weights, before the training',
    ),
    **dict.fromkeys(
        ('fan_in_fan_out', 'runtime_config', 'save_indices', 'save_only_topk_weights',
         'save_precomputed_indices', 'use_qalora'),
        'a trunk has no use for it',
    ),
}  # fmt: skip
_INIT_FROM_DATA = ('corda', 'eva', 'loftq', 'lora_ga')


_ON_LINEARS_ALONE = {
    'OFT': "peft's changes what a convolution with a stride gives, even before any training",
    'TINYLORA': 'peft counts Linears alone',
}
_ON_SEQUENCES_ALONE = ('GRALORA', 'OFT')
"""Methods of peft that take the maps (B, h, w, C) which a Swin's MLPs read for something else."""
_IN_FLOAT32 = {
    'LN_TUNING': 'it trains a float32 copy of each layer, which what it reads must match'
}


def import_peft(tuner: str) -> Any:
    """Return HF peft; here, since importing it takes seconds that no other tuner needs to spend.

    Args:
        tuner: Who needs it, for the message.

    Raises:
        UserError: It is not installed.
    """
    try:
        import peft
        import peft.tuners.tuners_utils
    except ImportError as error:
        raise UserError(
            f"{tuner} needs HF peft ({error}): pip install peft==0.21.2 'transformers>=4.53,<5'"
        ) from error
    return peft


def config_class(peft_type: str) -> type:
    """Return peft's config of a method.

    Raises:
        UserError: peft has no such method, or it does not run on a trunk.
    """
    peft = import_peft('HFPeftTuner')
    kinds = {
        kind.value: config for kind, config in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    if peft_type not in kinds:
        raise UserError(
            f'tuner.peft_type {peft_type!r} is unknown to peft {peft.__version__}: '
            f'{nearest(str(peft_type), {*kinds, *VARIANTS} - _REFUSED.keys())}'
        )
    kind, reason = kinds[peft_type], _REFUSED.get(peft_type)
    if issubclass(kind, peft.PromptLearningConfig):
        reason = f'it learns prompts for a language model; {_VPT}'
    if reason:
        raise UserError(f'tuner.peft_type {peft_type!r} does not run on a trunk: {reason}')
    return kind


def check_options(peft_type: str, kind: type, options: Mapping[str, Any]) -> None:
    """Raise unless peft's config has all options, and a trunk a use for them.

    Args:
        peft_type: Name of the method.
        kind: peft's config of it.
        options: The user's.

    Raises:
        UserError: Names the option, its value and what to do.
    """
    peft = import_peft('HFPeftTuner')
    fields = {field.name: field for field in dataclasses.fields(kind)}
    known = fields.keys() - {field.name for field in dataclasses.fields(peft.PeftConfig)}
    for name, value in options.items():
        if name not in known:
            hint = nearest(name, {*known, 'positions'} - _FROM_ELSEWHERE.keys())
            raise UserError(f'tuner.{name}: peft has no such option for {peft_type}: {hint}')
        if name in _FROM_ELSEWHERE and value != fields[name].default:
            raise UserError(f'tuner.{name} {value!r} cannot be set: {_FROM_ELSEWHERE[name]}')
    init = options.get('init_lora_weights')
    if init in _INIT_FROM_DATA:
        raise UserError(
            f'tuner.init_lora_weights {init!r} needs data, or quantised weights, before the '
            "training: use True, False, 'gaussian' or 'orthogonal'"
        )


def check_trunk(peft_type: str, positions: Collection[str], trunk: Trunk) -> None:
    """Raise if a method runs on a trunk, but not on this one or at these positions.

    Args:
        peft_type: Name of the method.
        positions: Roles of layers.
        trunk: What the layers are of.

    Raises:
        UserError: Says why.
    """
    if 'patch' in positions and peft_type in _ON_LINEARS_ALONE:
        reason = _ON_LINEARS_ALONE[peft_type]
        raise UserError(f"tuner.positions: leave 'patch' out for {peft_type}: {reason}")
    mlp = [name for name in positions if name in (*READERS['mlp'], 'fc2')]
    if mlp and 'stages' in trunk.capabilities and peft_type in _ON_SEQUENCES_ALONE:
        raise UserError(
            f'tuner.positions: leave {mlp} out for {peft_type}: peft takes the maps that they read '
            "in a trunk of stages for something else; 'LORA' runs there"
        )
    if peft_type in _IN_FLOAT32:
        check_float32(f'tuner.peft_type {peft_type!r}', trunk, _IN_FLOAT32[peft_type])


def describe_config(config: Any) -> dict[str, Any]:
    """Return the options that decide the function, as peft has completed them.

    Neither those that only act in training or at its start, nor those that name modules.
    """
    peft = import_peft('HFPeftTuner')
    general = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in general | _FROM_ELSEWHERE.keys() | {'feedforward_modules'}
        and not field.name.startswith('init_')
        and not field.name.endswith('_dropout')
    }
