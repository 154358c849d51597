# ATSS of half the width and depth, for small sets on small machines.
_base_ = './atss.py'
model = dict(
    neck=dict(out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128, stacked_convs=2),
)
