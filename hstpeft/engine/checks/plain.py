"""Keys of mappings without a class, from which mmengine and the hosts take the keys that they know.

They ignore all others without a word. A table is a union over the methods of a host: it says that some
part reads a key, not that this one does.
"""

from collections.abc import Mapping, Set
from typing import Any

from mmengine.runner import LogProcessor
from torch.utils.data import DataLoader

from hstpeft.engine.checks.parts import LOADERS, Part
from hstpeft.engine.checks.signature import signature

_LOADER = {*signature(DataLoader).arguments, 'num_batch_per_epoch'}
_PARAMWISE = {
    'bias_decay_mult', 'bias_lr_mult', 'bypass_duplicate', 'custom_keys', 'dcn_offset_lr_mult',
    'decay_rate', 'decay_type', 'dwconv_decay_mult', 'flat_decay_mult', 'flat_lr_mult',
    'force_default_settings', 'layer_decay', 'layer_decay_rate', 'norm_decay_mult', 'norm_lr_mult', 'num_layers',
    'token_decay_mult', '_delete',
}  # fmt: skip
# Of mmdet's detectors, one and two stages.
_ASSIGN = {
    'allowed_border', 'alpha', 'assigner', 'beta', 'carl', 'center_ratio', 'debug', 'dynamic_rcnn',
    'ga_assigner', 'ga_sampler', 'ignore_ratio', 'importance_sample_ratio', 'init',
    'initial_assigner', 'initial_epoch', 'isr', 'mask_size', 'max_num_grid', 'neg_pos_ratio',
    'num_points', 'oversample_ratio', 'pos_radius', 'pos_weight', 'refine', 'reg_assigner',
    'sampler', 'smoothl1_beta',
}  # fmt: skip
_CHOOSE = {
    'chunked_size', 'conf_thr', 'corner_topk', 'distance_threshold', 'filter_low_score',
    'filter_thr', 'instance_on', 'iou_thr', 'kernel', 'local_maximum_kernel', 'mask_thr',
    'mask_thr_binary', 'max_per_image', 'max_per_img', 'min_bbox_size', 'nms', 'nms_post',
    'nms_pre', 'object_mask_thr', 'panoptic', 'panoptic_on', 'scale_factor', 'score_thr',
    'score_voting', 'semantic_on', 'sigma', 'subdivision_num_points', 'subdivision_steps', 'top_k',
    'topk',
}  # fmt: skip
_DETECTORS = {
    'train_cfg': {'rpn', 'rpn_proposal', 'rcnn', *_ASSIGN},
    'test_cfg': {'rpn', 'rcnn', *_CHOOSE},
    'rpn': {*_ASSIGN, *_CHOOSE},
    'rcnn': {*_ASSIGN, *_CHOOSE},
    'rpn_proposal': _CHOOSE,
}
_SEGMENTORS = {
    'test_cfg': {
        'mode', 'crop_size', 'stride', 'scale_factor', 'size', 'size_divisor',
        'subdivision_num_points', 'subdivision_steps', 'threshold',
    },
}  # fmt: skip
_MODELS = {'mmdet': _DETECTORS, 'mmseg': _SEGMENTORS}
_RUN = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'env_cfg.dist_cfg': {
        'backend', 'device_id', 'init_backend', 'init_method', 'port', 'rank', 'timeout',
        'world_size',
    },
    'log_processor': {*signature(LogProcessor).arguments, 'type', '_scope_'},
    'optim_wrapper.clip_grad': {
        'clip_value', 'error_if_nonfinite', 'foreach', 'max_norm', 'norm_type', 'type',
    },
    'optim_wrapper.paramwise_cfg': _PARAMWISE,
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
    **dict.fromkeys(LOADERS, _LOADER),
}  # fmt: skip
_HOOKS = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint',
          'visualization'}  # fmt: skip
_DATA = {
    'data_prefix': {
        'ann', 'anno', 'depth_map_path', 'img', 'img_path', 'img_path2', 'seg', 'seg_map_path',
        'sub_data_root',
    },
    'filter_cfg': {'bbox_min_size', 'filter_empty_gt', 'min_size'},
}  # fmt: skip


def known_keys(part: Part, cfg: Mapping[str, Any]) -> Set[str] | None:
    """List the keys that are read of a mapping without a class; None where that is not known.

    Args:
        part: Of the config.
        cfg: The whole.
    """
    if part.key in _RUN:
        return _RUN[part.key]
    host = _host(cfg.get('model'))
    if part.key.startswith('model.') and part.target is None:
        return _MODELS.get(host, {}).get(part.name)
    if '_dataloader.' in part.key and host:
        return _DATA.get(part.name)
    return None


def resembling_keys(part: Part) -> Set[str]:
    """List the keys that are likely to be meant in a mapping that may have any."""
    if part.name == 'metainfo':
        return {'classes', 'palette'}
    return _HOOKS if part.key == 'default_hooks' else frozenset()


def _host(model: Any) -> str | None:
    """Name the host of a model; None where it may read keys of its own."""
    kind = model.get('type') if isinstance(model, Mapping) else None
    scope = kind.partition('.')[0] if isinstance(kind, str) else None
    return scope if scope in ('mmdet', 'mmpretrain', 'mmseg', 'hstpeft') else None
