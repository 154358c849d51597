# What segmentation needs besides; a leaf of iterations sets by_epoch=False.
_base_ = './default_runtime.py'
default_scope = 'mmseg'
visualizer = dict(
    _delete_=True,
    type='mmseg.SegLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
