"""Learnable memory tokens: build the product's classifier for a reference case and run it."""

from torch import Tensor, nn

from hstpeft.official import TRUNK, split_memory_tokens
from hstpeft.official.memory_tokens import memory_token_names
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_input,
    keep_output,
    second_reader,
    trainable,
)
from tools.reference_checks.trunks import vit_trunk

_READ = {
    'model', 'mem_type', 'add_mem_num', 'width', 'heads', 'depth', 'image size', 'patch size',
    'classes', 'global_pool',
}  # fmt: skip
_OUT_TYPES = {'token': 'cls_token', 'avg': 'avg_featmap'}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ
    if unknown or a['global_pool'] not in _OUT_TYPES:
        raise UnknownArgument(f'arguments {sorted(unknown) or "global_pool"} are not understood')
    trunk, delta = split_memory_tokens(case.weights)
    width = trunk['blocks.0.mlp.fc1.weight'].shape[1]
    tuner = dict(
        type='hstpeft.MemoryTokensTuner', mode=a['mem_type'], num_memory_tokens=a['add_mem_num']
    )
    tuner['train_cls_token'] = any(
        k == 'cls_token' and free for k, _, free in case.meta['parameters']
    )
    trunk_cfg = vit_trunk(trunk, a, global_pool=a['global_pool'])
    model = classifier(trunk_cfg, tuner, a['classes'], width, _OUT_TYPES[a['global_pool']])
    return fill(model, delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk, tuner = model.backbone.trunk, model.backbone.tuner
    keep_input(second_reader(trunk.vit), outputs, 'block0')
    keep_output(trunk.vit.norm, outputs, 'tokens')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    if tuner.mode == 'standard' and trunk.num_layers > 1:
        # The next block has appended its own tokens by the time its norm sees the sequence.
        outputs['block0'] = outputs['block0'][:, : -tuner.num_memory_tokens]
    add_loss(case, outputs)
    names = {own: key for key, own in memory_token_names(len(tuner.memory_tokens)).items()}
    own = trainable(model)
    return Run(outputs, {names.get(name, name.removeprefix(TRUNK)): p for name, p in own.items()})
