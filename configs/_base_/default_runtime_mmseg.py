# What segmentation needs besides.
_base_ = './default_runtime.py'
default_scope = 'mmseg'
visualizer = dict(
    _delete_=True,
    type='mmseg.SegLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
