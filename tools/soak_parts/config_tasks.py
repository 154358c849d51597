"""Sound configs of the three tasks, so small that a first step takes a fraction of a second."""

import os
from pathlib import Path
from typing import NamedTuple

from hstpeft.datasets.drawn.stand_ins import write_stand_in

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
_SMALL = """_base_ = '{leaf}'
model = dict(
    backbone=dict(
        trunk=dict(
            _delete_=True,
            type='hstpeft.ViTTrunk',
            arch='vit_tiny_patch16_224',
            arch_options=dict(embed_dim=32, depth=4, num_heads=2, img_size=64),
        ),
        tuner=dict(side_dims=[8, 8, 16, 16], side_heads=[2, 2, 4, 4]),
    ),
    {model}
)
train_dataloader = dict(batch_size=2, num_workers=0)
val_dataloader = dict(num_workers=0)
"""


class Leaf(NamedTuple):
    """A shipped leaf, and what makes it small.

    Attributes:
        path: Below ``configs``.
        model: Keys of its model beside the backbone.
        more: Lines at the end of the file.
        layout: Stand-in of its data; None if it draws its images itself.
        size: H and W of a stand-in's images.
    """

    path: str
    model: str
    more: str = ''
    layout: str | None = None
    size: tuple[int, int] | None = None


LEAVES = {
    'classification': Leaf(
        'quickstart/hst_vit-mini_1xb32-12e_rendered.py',
        'neck=dict(in_channels=16), head=dict(in_channels=16),',
        'train_dataloader["dataset"] = dict(num_samples=8)\n',
    ),
    'segmentation': Leaf(
        'hst/hst_vit-ti16_semantic-fpn_1xb4-300i_camvid.py',
        'neck=dict(in_channels=[8, 8, 16, 16], out_channels=16),'
        'decode_head=dict(in_channels=[16] * 4, channels=16),',
        layout='camvid',
        size=(120, 160),
    ),
    'detection': Leaf(
        'hst/hst_vit-ti16_atss_1xb4-300i_bccd.py',
        'neck=dict(in_channels=[8, 8, 16, 16]), bbox_head=dict(stacked_convs=1),',
        layout='bccd',
        size=(120, 160),
    ),
    'instance segmentation': Leaf(
        'hst/hst_vit-ti16_mask-rcnn_1xb2-400i_dsb2018.py',
        'neck=dict(in_channels=[8, 8, 16, 16]),',
        layout='dsb2018',
        size=(96, 96),
    ),
}


def write_leaves(folder: Path) -> dict[str, Path]:
    """Write data and a small leaf of every task; the data of a shipped part are named by variables.

    Args:
        folder: New or empty.

    Returns:
        The leaf of each task.
    """
    paths = {}
    for task, leaf in LEAVES.items():
        if leaf.layout is not None:
            root = write_stand_in(leaf.layout, folder / leaf.layout, 4, 2, leaf.size)
            os.environ[f'{leaf.layout.upper()}_ROOT'] = str(root)
        paths[task] = folder / f'{task.replace(" ", "_")}.py'
        text = _SMALL.format(leaf=CONFIGS / leaf.path, model=leaf.model)
        paths[task].write_text(text + leaf.more)
    return paths
