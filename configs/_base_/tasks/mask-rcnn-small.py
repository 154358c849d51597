# Mask R-CNN of half the width and of fewer regions, for small sets of small objects on small
# machines. GroupNorm lets its heads learn from scratch in a few hundred iterations.
_base_ = './mask-rcnn.py'
norm_cfg = dict(type='GN', num_groups=32)
model = dict(
    neck=dict(out_channels=128, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=128, feat_channels=128, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128, finest_scale=28),
        bbox_head=dict(
            type='mmdet.Shared4Conv1FCBBoxHead',
            in_channels=128,
            conv_out_channels=128,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(out_channels=128, finest_scale=28),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_convs=2, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
)
del norm_cfg
