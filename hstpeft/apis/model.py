"""Find configs and build models from them."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope

from hstpeft.compat import describe_to_inferencers
from hstpeft.delta import load_checkpoint
from hstpeft.engine.checkpoint import check_checkpoint
from hstpeft.engine.checks.evaluated import check_evaluated
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.config import config_root, load_config
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError, nearest


def list_models(pattern: str = '*') -> list[str]:
    """List the shipped configs by name.

    Args:
        pattern: Shell pattern on the name; without a wildcard, a part of it.
    """
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    return sorted(fnmatch.filter(_leaves(), pattern))


def get_model(
    name: str,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> BaseModel:
    """Build a shipped model by its name, in evaluation mode.

    Args:
        name: One of `list_models`.
        checkpoint: Delta or training checkpoint to load.
        device: e.g. ``cuda:0``; default: a GPU if there is one.
        cfg_options: Overrides, e.g. ``{'model.backbone.trunk.weights': 'vit.safetensors'}``.
    """
    leaves = _leaves()
    if name not in leaves:
        raise UserError(f'model {name!r} is not shipped: {nearest(name, leaves)}')
    return init_model(leaves[name], checkpoint, device, cfg_options)


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_new_head: bool = False,
    safe_config: bool = False,
    trust: bool = False,
) -> BaseModel:
    """Build a model from a config and load a delta strictly, in evaluation mode.

    Args:
        config: Config file, or a config already loaded.
        checkpoint: Delta (``.pth``, ``.safetensors``) or training checkpoint.
        device: e.g. ``cuda:0``; default: a GPU if there is one.
        cfg_options: Overrides by dotted key.
        allow_new_head: Keep the fresh head when the checkpoint's differs, and the fresh neck when the
            checkpoint's is of another kind.
        safe_config: Refuse a config file that does more than set values.
        trust: Vouch for the checkpoint: what it holds may be of any class, and may run.

    Returns:
        The host's model; ``model.cfg`` is its config and ``model.dataset_meta`` the checkpoint's.

    Raises:
        UserError: The heads do not fit the backbone, or the checkpoint does not fit or belongs to
            another trunk or tuner.
    """
    model = build_model(config, cfg_options, safe_config)
    if checkpoint is not None:
        fill_model(model, load_checkpoint(checkpoint, trust), allow_new_head)
    device = device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    return model.to(device).eval()


def build_model(
    config: str | Path | Config,
    cfg_options: Mapping[str, Any] | None = None,
    safe_config: bool = False,
) -> BaseModel:
    """Build a model from a config, on the CPU and without a delta; the arguments of `init_model`."""
    if isinstance(config, Config):
        cfg = config.copy()
        cfg.merge_from_dict(dict(cfg_options or {}))
        check_evaluated(cfg.to_dict())
    else:
        cfg = load_config(config, cfg_options, safe_config)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    with safe_io():
        model = MODELS.build(cfg.model)
    check_model(model)
    model.cfg = cfg  # where the inferencers of mmseg and mmdet look
    _name_classes(model, {})
    return model


def fill_model(model: BaseModel, checkpoint: dict[str, Any], allow_new_head: bool = False) -> None:
    """Load a delta strictly into a model of `build_model`.

    Args:
        model: Nothing of it changes unless all fits.
        checkpoint: From `load_checkpoint`; loses the head and neck that are not taken.
        allow_new_head: Keep the model's head when the checkpoint's differs.
    """
    check_checkpoint(model, checkpoint, allow_new_head)
    # A new head was dropped from the checkpoint; all the rest was compared.
    model.load_state_dict(checkpoint['state_dict'], strict=not allow_new_head)
    _name_classes(model, checkpoint.get('meta', {}).get('dataset_meta') or {})


def _name_classes(model: BaseModel, dataset_meta: Mapping[str, Any]) -> None:
    model.dataset_meta = dataset_meta
    describe_to_inferencers(model, model.cfg, dataset_meta)


def _leaves() -> dict[str, Path]:
    root = config_root()
    return {
        path.stem: path
        for path in root.rglob('*.py')
        if '_base_' not in path.relative_to(root).parts
    }
