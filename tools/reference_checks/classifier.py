"""What the checks of several systems share: a classifier without neck, filled and watched."""

from collections.abc import Callable, Mapping
from typing import Any

from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.oracle.case import Case


def classifier(
    trunk: dict[str, Any],
    tuner: dict[str, Any],
    num_classes: int,
    width: int,
    out_type: str | None = None,
    head: str = 'LinearClsHead',
    **parts: Any,
) -> nn.Module:
    """Build the classifier that a config would."""
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner, out_type=out_type
            ),
            head=dict(type=head, num_classes=num_classes, in_channels=width),
            **parts,
        )
    )


def fill(model: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
    """Load tensors by our names; each must exist. The rest stays as the trunk's weights made it."""
    state = model.state_dict()
    unknown = delta.keys() - state.keys()
    assert not unknown, f'the model has no {sorted(unknown)}'
    model.load_state_dict({**state, **delta}, strict=True)
    return model


def keep_output(module: nn.Module, outputs: dict[str, Tensor], name: str) -> None:
    """Put what a module gives under a name."""
    module.register_forward_hook(lambda m, args, output: outputs.update({name: output}))


def keep_input(module: nn.Module, outputs: dict[str, Tensor], name: str) -> None:
    """Put what a module gets under a name."""
    module.register_forward_hook(lambda m, args, output: outputs.update({name: args[0]}))


def keep_entries(tuner: nn.Module, at: Mapping[int, str], outputs: dict[str, Tensor]) -> None:
    """Put the residual stream at the entry of blocks, before the tuner changes it, under names."""
    change = tuner.before_block

    def watch(index: int, tokens: Tensor) -> Tensor:
        if index in at:
            outputs[at[index]] = tokens
        return change(index, tokens)

    tuner.before_block = watch


def keep_stages(swin: nn.Module, outputs: dict[str, Tensor]) -> None:
    """Put the outputs of a Swin's stages, patch merging included, under ``stage0`` and so on."""
    for stage, layer in enumerate(swin.layers[1:]):
        keep_output(layer.downsample, outputs, f'stage{stage}')
    keep_input(swin.norm, outputs, f'stage{len(swin.layers) - 1}')


def mlp_ratio(hidden: int, width: int) -> float:
    """Return a ratio that timm, which rounds down, turns into ``hidden``."""
    return (hidden + 0.5) / width


def second_reader(vit: nn.Module) -> nn.Module:
    """Return the norm that reads the output of block 0 of a timm ViT."""
    return vit.blocks[1].norm1 if len(vit.blocks) > 1 else vit.norm


def add_loss(case: Case, outputs: dict[str, Tensor]) -> None:
    """Add the loss of the logits and run backward, where the case has labels."""
    if case.labels is not None:
        outputs['loss'] = F.cross_entropy(outputs['logits'], case.labels)
        outputs['loss'].backward()


def run_classifier(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """Run one forward pass and backward, and return the outputs by the names of ViT and Swin cases.

    ``layer0`` is what leaves block 0 of a ViT, ``encoded`` what leaves its last norm.
    """
    outputs: dict[str, Tensor] = {}
    net = model.backbone.trunk.net
    if 'depths' in case.arguments:
        keep_stages(net, outputs)
    else:
        keep_input(second_reader(net), outputs, 'layer0')
        keep_output(net.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    return {k: v.flatten(1, 2) if v.dim() == 4 else v for k, v in outputs.items()}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by our names."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def renamed(
    model: nn.Module, join: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, nn.Parameter]:
    """Return the trainable parameters and their gradients by official names, in official shapes.

    Args:
        model: After the backward pass, if there is one.
        join: From tensors by our names to the official ones.
    """
    own = trainable(model)
    found = {key: nn.Parameter(value.detach()) for key, value in join(own).items()}
    sizes = (sum(p.numel() for p in each.values()) for each in (own, found))
    assert len(set(sizes)) == 1, 'the official names leave out something that is trained'
    gradients = {name: p.grad for name, p in own.items() if p.grad is not None}
    for key, gradient in join(gradients).items() if gradients else ():
        found[key].grad = gradient
    return found
