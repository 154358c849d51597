"""The classifier that remembers features of a slowly moving copy of its encoder.

Shapes: B batch, H W pixels.
"""

import copy
from collections.abc import MutableMapping, Sequence

import torch
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from hstpeft.compat import EXTRA_STATE
from hstpeft.errors import UserError
from hstpeft.registry import MODELS

_PARTS = ('backbone', 'neck')
_COPY = 'momentum_'
_IDENTITY = f'backbone.{EXTRA_STATE}'


@MODELS.register_module()
class HMAClassifier(ImageClassifier):
    """mmpretrain's classifier with HMA's momentum encoder.

    With momentum m a copy of backbone and neck follows them, ``copy = m copy + (1 - m) encoder``
    once per training step, and the copy's features are what the head's local memory gets, after it
    was read. What is frozen in the encoder is the same tensor in the copy: it is held once, and
    the delta leaves it out. The rest of the copy is state of the delta and has no gradient.
    https://arxiv.org/abs/2310.10909

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck.
        head: Config of the head; with a momentum a `HMAClsHead` with a local memory.
        encoder_momentum: m, from 0 (no copy) to below 1.
        pretrained: As in mmpretrain.
        train_cfg: As in mmpretrain.
        data_preprocessor: As in mmpretrain.
        init_cfg: As in mmpretrain.

    Raises:
        UserError: The momentum is out of range or would have no effect.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        head: dict | None = None,
        encoder_momentum: float = 0.0,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(backbone, neck, head, pretrained, train_cfg, data_preprocessor, init_cfg)
        if not 0 <= encoder_momentum < 1:
            raise UserError(f'model.encoder_momentum {encoder_momentum} must be from 0 to below 1')
        self.encoder_momentum = encoder_momentum
        if encoder_momentum == 0:
            return
        if not getattr(self.head, 'remembers', False):
            raise UserError(
                f'model.encoder_momentum {encoder_momentum} feeds a local memory and the head '
                'writes none: use hstpeft.HMAClsHead with a local_memory, or encoder_momentum=0'
            )
        encoder = [getattr(self, part) for part in _PARTS]
        if not any(p.requires_grad for part in encoder if part for p in part.parameters()):
            raise UserError(
                f'model.encoder_momentum {encoder_momentum}: nothing in backbone and neck is '
                'trained, so a copy would give the same features at twice the cost: set it to 0'
            )
        self.momentum_backbone, self.momentum_neck = (_copy_trained(part) for part in encoder)
        self.register_state_dict_post_hook(_drop_shared)
        self.register_load_state_dict_pre_hook(_fill_shared)

    def init_weights(self) -> None:
        """Initialise as mmengine does; the copy starts where the encoder does."""
        super().init_weights()
        if self.encoder_momentum:
            for part in _PARTS:
                if getattr(self, part) is not None:
                    state = getattr(self, part).state_dict()
                    getattr(self, _COPY + part).load_state_dict(state)

    def loss(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        """Compute the losses of images (B, 3, H, W); in training move the copy and remember."""
        feats = self.extract_feat(inputs)
        if not (self.encoder_momentum and self.training):
            return self.head.loss(feats, data_samples)
        losses = self.head.loss(feats, data_samples, remember=False)
        self.follow()
        self.head.remember(self.momentum_features(inputs), data_samples)
        return losses

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy one step towards the encoder."""
        for part in _PARTS:
            if getattr(self, part) is None:
                continue
            own = dict(getattr(self, part).named_parameters())
            for name, follower in getattr(self, _COPY + part).named_parameters():
                if follower is not own[name]:
                    follower.mul_(self.encoder_momentum)
                    follower.add_(own[name], alpha=1 - self.encoder_momentum)

    @torch.no_grad()
    def momentum_features(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the copy makes of images (B, 3, H, W), for the head."""
        feats = self.momentum_backbone(inputs)
        return feats if self.momentum_neck is None else self.momentum_neck(feats)


def _copy_trained(part: nn.Module | None) -> nn.Module | None:
    """Copy a module but for its frozen parameters, which the copy shares."""
    if part is None:
        return None
    shared = {id(p): p for p in part.parameters() if not p.requires_grad}
    return copy.deepcopy(part, shared).requires_grad_(False)


def _shared_keys(model: HMAClassifier) -> set[str]:
    """Keys of the copy that a state dict leaves out: the shared tensors and the trunk's identity."""
    own = {id(p) for part in _PARTS if (m := getattr(model, part)) for p in m.parameters()}
    keys = {_COPY + _IDENTITY}
    for part in _PARTS:
        follower = getattr(model, _COPY + part)
        if follower is not None:
            names = (name for name, p in follower.named_parameters() if id(p) in own)
            keys.update(f'{_COPY}{part}.{name}' for name in names)
    return keys


def _drop_shared(
    module: HMAClassifier, state_dict: MutableMapping, prefix: str, local_metadata: dict
) -> None:
    """State dict post hook: what encoder and copy share is written once, in place."""
    for key in _shared_keys(module):
        state_dict.pop(prefix + key, None)


def _fill_shared(
    module: HMAClassifier,
    state_dict: MutableMapping,
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list,
    unexpected_keys: list,
    error_msgs: list,
) -> None:
    """Load pre hook: give the copy what it shares, or all if the checkpoint has no copy."""
    keys = [
        key.removeprefix(prefix)
        for key in state_dict
        if key.startswith(tuple(f'{prefix}{part}.' for part in _PARTS))
    ]
    has_copy = any(key.startswith(prefix + _COPY) for key in state_dict)
    shared = _shared_keys(module)
    for key in keys:
        if _COPY + key in shared or not has_copy:
            state_dict.setdefault(f'{prefix}{_COPY}{key}', state_dict[prefix + key])
