"""Layers of HF peft in a trunk: putting them there, and what of their state a delta holds."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from hstpeft.models.tuners.peft_types import import_peft


def inject(net: nn.Module, names: Sequence[str], config: Any, tuner: str) -> None:
    """Let peft wrap the named layers of a net, in place.

    Args:
        net: Anything with those layers.
        names: Full names in ``net``, the ``target_modules`` of the config.
        config: peft's.
        tuner: Who asks for it, for messages.

    Raises:
        UserError: peft is not installed.
    """
    peft = import_peft(tuner)
    kind = peft.tuners.tuners_utils.BaseTunerLayer
    before = {name for name, module in net.named_modules() if isinstance(module, kind)}
    # Not `inject_adapter_in_model`, which refuses the methods whose layers share tensors.
    peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](net, config, 'default')
    del net.peft_config
    # peft takes a name for the end of a name, and shortens long lists.
    found = {name for name, module in net.named_modules() if isinstance(module, kind)} - before
    assert found == set(names), f'peft wrapped {found ^ set(names)}'


def share_once(layers: Sequence[nn.Module]) -> None:
    """Let a module that several layers of peft hold be a child of the first of them alone.

    The others go on using it, but neither a state dict nor a deep copy has it twice.
    """
    seen = set()
    for layer in layers:
        for name, child in list(layer.named_children()):
            if id(child) in seen:
                delattr(layer, name)
                vars(layer)[name] = child
            seen.add(id(child))


def keep_in_delta(layers: Sequence[nn.Module]) -> None:
    """Make the floating-point buffers of peft's layers a part of the state dict."""
    for layer in layers:
        for module in layer.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    delattr(module, name)
                    module.register_buffer(name, buffer)


def drawn_tensors(layers: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Give what peft's layers use beside what a state dict holds: buffers, and tensors in dicts."""
    for index, layer in enumerate(layers):
        saved = layer.state_dict().keys()
        known = {id(tensor) for tensor in [*layer.parameters(), *layer.buffers()]}
        for name, buffer in layer.named_buffers():
            if name not in saved:
                yield f'{index}.{name}', buffer
        for name, value in vars(layer).items():
            for key, tensor in value.items() if isinstance(value, dict) else ():
                if isinstance(tensor, Tensor) and id(tensor) not in known:
                    yield f'{index}.{name}.{key}', tensor
