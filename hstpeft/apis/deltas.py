"""Several deltas over one trunk, of which one is in use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import nn

from hstpeft.apis.bare_model import build_bare
from hstpeft.apis.model import build_model, fill_model
from hstpeft.delta import RANDOM, load_checkpoint
from hstpeft.delta.sharing import index_by_content, share_frozen
from hstpeft.engine.config import with_num_classes
from hstpeft.errors import UserError, nearest
from hstpeft.models.backbones import TunedBackbone


class DeltaSwitch:
    """Holds a frozen trunk once, and any number of deltas that were trained on it.

    Each delta has a model of its own, whose frozen trunk parameters are those of all the others: so
    deltas may differ in tuner, neck, head and number of classes, choosing one costs nothing, and its
    outputs are, bit by bit, those of `init_model` with that delta alone. What a delta trained of the
    trunk (norms, biases), and buffers, are its own.

    ```python
    switch = DeltaSwitch(init_model('lora.py'))
    switch.load_delta('birds', 'birds.pth')
    switch.load_delta('flowers', 'flowers.pth', 'hst.py')
    inference(switch.set_delta('birds'), 'images/')
    ```

    Not made for several threads: `model` is whatever was chosen last. To train, use the models of
    `init_model`.

    Args:
        model: From `init_model` or `get_model`, of any host, or any other with a tuned backbone and
            its config as ``cfg``. Gives trunk, config and device. It is not changed, and its own delta
            is not taken over; but it and the switch hold the same frozen parameters, so move neither
            alone.

    Raises:
        UserError: The model has no tuned backbone or no config, or its trunk has no pre-trained
            weights: then each delta holds a whole trunk, and there is nothing to share.
    """

    def __init__(self, model: BaseModel) -> None:
        backbone = _tuned_backbone(model)
        self.cfg: Config = model.cfg
        self._bare = build_bare(model)
        self._trunk = self._bare.backbone.trunk
        self._check_trunk(backbone)
        share_frozen(self._bare, self._trunk, index_by_content(_frozen(backbone.trunk)))
        self._held = index_by_content(self._trunk.parameters())
        self._models: dict[str, BaseModel] = {}
        self._name: str | None = None
        self.to(next(model.parameters()).device)

    @property
    def names(self) -> tuple[str, ...]:
        """The deltas that are loaded, in the order of loading."""
        return tuple(self._models)

    @property
    def name(self) -> str | None:
        """The delta in use; None if there is none."""
        return self._name

    @property
    def model(self) -> BaseModel:
        """The model in use, with ``cfg`` and ``dataset_meta``; without a delta a `BareModel`."""
        return self._bare if self._name is None else self._models[self._name]

    def load_delta(
        self,
        name: str,
        path: str | Path,
        config: str | Path | Config | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        safe_config: bool = False,
        trust: bool = False,
    ) -> None:
        """Load a delta beside the others; which one is in use does not change.

        For a while this takes the memory of one more trunk, on the CPU: its weights are read, to know
        that they are those of the delta.

        Args:
            name: What it shall be called.
            path: Delta (``.pth``, ``.safetensors``) or training checkpoint.
            config: What it was trained with. By default the switch's own, with as many classes as the
                delta names where the config has one number of classes.
            cfg_options: Overrides by dotted key, e.g. ``{'model.head.num_classes': 102}``.
            safe_config: Refuse a config file that does more than set values.
            trust: Vouch for the file: what it holds may be of any class, and may run.

        Raises:
            UserError: The name is taken, the file is damaged, or the delta belongs to another trunk or
                does not fit the config. Nothing has changed then.
        """
        if name in self._models:
            raise UserError(f'delta {name!r} is loaded already: choose another name, or remove it')
        checkpoint = load_checkpoint(path, trust)
        try:
            if config is None:
                dataset_meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
                config = with_num_classes(self.cfg, len(dataset_meta.get('classes') or ()))
            model = build_model(config, cfg_options, safe_config)
            backbone = _tuned_backbone(model)
            self._check_trunk(backbone)
            fill_model(model, checkpoint)
        except UserError as error:
            raise UserError(f'delta {name!r}: {error}') from error
        share_frozen(model, backbone.trunk, self._held)
        self._models[name] = model.to(self.device).eval()

    def set_delta(self, name: str) -> BaseModel:
        """Put a delta to use; types without a prefix mean its host's then, as after `init_model`.

        Returns:
            `model`, the host's model of this delta.

        Raises:
            UserError: It is not loaded; gives the nearest name.
        """
        self._check_name(name)
        self._name = name
        init_default_scope(self.model.cfg.get('default_scope', 'mmpretrain'))
        return self.model

    def disable_delta(self) -> BaseModel:
        """Go back to the bare trunk.

        Returns:
            `model`, a `BareModel`: the features of the pre-trained trunk, and no predictions, for every
            head belongs to a delta.
        """
        self._name = None
        return self.model

    def remove_delta(self, name: str) -> None:
        """Forget a delta; if it was in use, the bare trunk is."""
        self._check_name(name)
        del self._models[name]
        if self._name == name:
            self._name = None

    def to(self, device: str | torch.device) -> 'DeltaSwitch':
        """Move trunk and deltas together: what they share moves once, and stays shared."""
        self.device = torch.device(device)
        for model in (self._bare, *self._models.values()):
            model.to(self.device)
        return self

    def _check_name(self, name: str) -> None:
        if name not in self._models:
            known = nearest(name, self._models) if self._models else 'call load_delta first'
            raise UserError(f'delta {name!r} is not loaded: {known}')

    def _check_trunk(self, backbone: TunedBackbone) -> None:
        """Raise unless a backbone stands on the trunk that is held, in the same dtype."""
        own, held = backbone.trunk, self._trunk
        if own.identity == RANDOM:
            raise UserError(
                'the trunk has no pre-trained weights, so a delta holds the whole trunk and there is '
                'nothing to share: give backbone.trunk.weights'
            )
        if own.identity != held.identity:
            raise UserError(
                f'the config has the trunk {own.identity[:12]}, the switch holds the trunk '
                f'{held.identity[:12]}: make another DeltaSwitch for it'
            )
        if own.frozen_dtype != held.frozen_dtype:
            raise UserError(
                f'the config holds the trunk in {own.frozen_dtype}, the switch in '
                f'{held.frozen_dtype}: give both the same backbone.trunk.dtype'
            )


def _tuned_backbone(model: nn.Module) -> TunedBackbone:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TunedBackbone):
        raise UserError(
            f'the backbone of {type(model).__name__} is {type(backbone).__name__}: deltas are of a '
            'hstpeft.TunedBackbone'
        )
    if not isinstance(getattr(model, 'cfg', None), Config):
        raise UserError('the model has no config as cfg: build it with hstpeft.apis.init_model')
    return backbone


def _frozen(trunk: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in trunk.parameters() if not parameter.requires_grad]
