# Mask R-CNN of half the width, a quarter of the box head's and of the sampled regions, for small
# sets on small machines.
_base_ = './mask-rcnn.py'
model = dict(
    neck=dict(out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_convs=2),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
)
