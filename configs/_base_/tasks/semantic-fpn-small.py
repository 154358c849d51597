# Semantic FPN of half the width, for small sets on small machines; BatchNorm, for one process.
_base_ = './semantic-fpn.py'
model = dict(
    neck=dict(out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        channels=64,
        norm_cfg=dict(_delete_=True, type='BN', requires_grad=True),
    ),
)
