"""The shipped leaf configs, what their names say, and how to make them small enough to build."""

import functools
import re
from pathlib import Path

from mmengine.config import Config

from hstpeft.engine.config import load_config
from tests.support.paths import ROOT

LEAVES = {
    path.stem: path
    for path in sorted((ROOT / 'configs').glob('*/*.py'))
    if path.parent.name != '_base_'
}
NAME = re.compile(
    r'((?P<method>[a-z0-9-]+)_)?(?P<trunk>(vit|swin|hvt|scale-hvt)-[a-z0-9-]+)_'
    r'((?P<task>semantic-fpn|upernet|(cascade-)?mask-rcnn|atss)_)?'
    r'(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<length>\d+)(?P<unit>[eik])_(?P<dataset>[a-z0-9-]+)'
)
# What leaves four blocks of a trunk; an HVT is bound to its image size, and pools tokens away.
FOUR_BLOCKS = {
    'hstpeft.ViTTrunk': dict(depth=4),
    'hstpeft.SwinTrunk': dict(depths=(1, 1, 1, 1)),
    'hstpeft.HVTTrunk': dict(depth=4, img_size=32, patch_size=4),
}
# What a user sets to choose data and weights.
VARIABLES = {
    variable
    for folder in ('configs', 'projects')
    for path in (ROOT / folder).rglob('*.py')
    for variable in re.findall(r'\{\{\$(\w+):', path.read_text())
}


@functools.cache
def shipped(name: str) -> Config:
    """Load a leaf once per session: read it, never change it."""
    return load_config(LEAVES[name])


def shrunk(path: Path) -> Config:
    """Load a leaf and take away the weights and all but four blocks of its trunk."""
    config = load_config(path)
    trunk = config.model.backbone.trunk
    trunk.weights = None
    trunk.arch_options = {**trunk.get('arch_options', {}), **FOUR_BLOCKS[trunk.type]}
    return config
