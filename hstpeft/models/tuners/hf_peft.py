"""Every method of HF peft that adapts Linears or convolutions (https://github.com/huggingface/peft)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError, check_names
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import BLOCK_LAYERS
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.models.tuners.peft_layers import drawn_tensors, inject, keep_in_delta, share_once
from hstpeft.models.tuners.peft_types import (
    VARIANTS,
    check_options,
    check_trunk,
    config_class,
    describe_config,
)
from hstpeft.registry import MODELS

_FROM_WEIGHTS = ('PSOFT', 'TINYLORA')
"""Methods that keep a part of an SVD, which comes out otherwise on another machine."""


@MODELS.register_module()
class HFPeftTuner(Tuner):
    """One of peft's methods on chosen layers of every block: LORA, DORA, LOHA, OFT, VERA, ...

    Equation, initialisation and number of trainable values are peft's, and so are the defaults of
    its options; LORA with peft's defaults on ``qkv`` of a ViT-B/16 trains 294,912 values, DORA
    27,648 more (a magnitude for each output).

    peft puts its layers into the trunk, so the delta calls what they hold by its place there. That
    includes the tensors that peft draws and does not train (VeRA's projections); with peft's
    ``save_projection=False`` they are drawn from the seed again, and the identity of the delta has
    their hash. A tensor that layers share is in the delta once.

    Args:
        peft_type: peft's name of the method, or ``DORA``.
        positions: Layers of every block by their role (``qkv``, ``proj``, ``fc1``, ``fc2``,
            ``norm1``, ...), and ``patch`` for the convolution that embeds the patches.
        options: Options of peft's config of the method, e.g. ``r`` and ``lora_alpha``. Those that
            name modules take roles; IA3's ``feedforward_modules`` are by default the ``fc2`` among
            the positions.

    Raises:
        UserError: peft is not installed or has no such method or option; the method or the option
            needs a language model or changes the frozen weights.
    """

    def __init__(self, peft_type: str, positions: Sequence[str] = ('qkv',), **options: Any) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, (*BLOCK_LAYERS, 'patch'))
        self.peft_type, implied = VARIANTS.get(peft_type, (peft_type, {}))
        self.method, self.options = peft_type, {**options, **implied}
        check_options(self.peft_type, config_class(self.peft_type), self.options)
        if self.peft_type == 'IA3':
            given = options.get('feedforward_modules')
            own = [name for name in self.positions if name == 'fc2'] if given is None else given
            self.options['feedforward_modules'] = own
            if not set(own) <= set(self.positions):
                raise UserError(
                    f'tuner.feedforward_modules {own} must be among tuner.positions {self.positions}'
                )
        self.trained_names: tuple[str, ...] = ()
        self.described: dict[str, Any] = {}

    @property
    def kind(self) -> str:
        """Name the method too."""
        return f'{type(self).__name__} ({self.method})'

    def attach(self, trunk: Trunk) -> None:
        """Let peft wrap the layers that run.

        Raises:
            UserError: The trunk lacks a layer, peft refuses one, or the delta could not hold what
                peft does.
        """
        check_trunk(self.peft_type, self.positions, trunk)
        places = self._places(trunk)
        try:
            names = [trunk.layer_path(*place) for place in places]
        except UserError as error:
            raise UserError(f'tuner.positions {self.positions}: {error}') from None
        before = {id(parameter) for parameter in trunk.net.parameters()}
        weights = [trunk.layer(*place).weight.detach().clone() for place in places]
        try:
            config = self._config(trunk)
            inject(trunk.net, names, config, type(self).__name__)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            said = ' '.join(str(error).split())
            raise UserError(
                f'tuner {self.method} on {self.positions}: peft says: {said}'
            ) from error
        layers = [trunk.layer(*place) for place in places]
        after = [layer.get_base_layer().weight for layer in layers]
        kept = [w.is_meta or w.equal(old) for w, old in zip(after, weights, strict=True)]
        added = {n: p for n, p in trunk.net.named_parameters() if id(p) not in before}
        self._check_state(list(added.values()), all(kept))
        share_once(layers)
        if self.peft_type in _FROM_WEIGHTS:
            keep_in_delta(layers)
        self.trained_names = tuple(added)
        drawn = {name: tensor for name, tensor in drawn_tensors(layers) if not tensor.is_meta}
        self.described = {
            'config': describe_config(config),
            'drawn': fingerprint(drawn) if drawn else '',
        }

    def description(self) -> dict[str, Any]:
        """Return method, options and a hash of what peft has drawn and the delta does not hold."""
        return {'method': self.method, **self.described}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return what peft has put into the trunk."""
        return [trunk.net.get_parameter(name) for name in self.trained_names]

    def merge(self, trunk: Trunk) -> Tuner:
        """Let peft add its part to each weight, and take its layers out of the trunk again.

        Raises:
            UserError: peft cannot merge the method.
        """
        for place in self._places(trunk):
            layer = trunk.layer(*place)
            try:
                layer.merge()
            except (NotImplementedError, ValueError) as error:
                raise UserError(
                    f'{self.kind} cannot be merged into the trunk: peft says: {error}; deploy the '
                    'delta beside the trunk (tools/delta.py export)'
                ) from error
            trunk.set_layer(*place, layer.get_base_layer())
        return FrozenTuner()

    def _places(self, trunk: Trunk) -> list[tuple[int | None, str]]:
        """List block number (None outside the blocks) and role of every layer to adapt."""
        inner = [name for name in self.positions if name != 'patch']
        blocks = [(index, name) for index in range(trunk.num_layers) for name in inner]
        return [(None, 'patch'), *blocks] if 'patch' in self.positions else blocks

    def _config(self, trunk: Trunk) -> Any:
        """Make peft's config for a trunk, naming modules in full where the options name roles."""
        names = {name: [] for name in self.positions}
        for index, name in self._places(trunk):
            names[name].append(trunk.layer_path(index, name))
        options = dict(self.options)
        if 'feedforward_modules' in options:
            roles = options['feedforward_modules']
            options['feedforward_modules'] = [full for role in roles for full in names[role]]
        targets = [full for paths in names.values() for full in paths]
        return config_class(self.peft_type)(target_modules=targets, **options)

    def _check_state(self, parameters: Sequence[nn.Parameter], kept: bool) -> None:
        """Refuse what a delta could not hold.

        Args:
            parameters: What peft has added.
            kept: Whether the frozen weights are what they were.
        """
        reason = '' if kept else 'it changes the frozen weights'
        if not all(parameter.requires_grad for parameter in parameters):
            reason = 'it has parameters that are not trained'
        if reason:
            raise UserError(
                f'tuner {self.method} with {self.options}: {reason}, which a delta does not hold: '
                "leave the option out (peft's defaults do neither)"
            )
