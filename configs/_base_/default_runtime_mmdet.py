# What detection needs besides.
_base_ = './default_runtime.py'
default_scope = 'mmdet'
visualizer = dict(
    _delete_=True,
    type='mmdet.DetLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
