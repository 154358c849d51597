# Semantic FPN (https://arxiv.org/abs/1901.02446); the leaf fills in trunk, tuner, the neck's
# in_channels, class count and norm.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='mmseg.EncoderDecoder',
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor',
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,
        # Whole patches: a side that is none would be squeezed onto the image at test time.
        test_cfg=dict(size_divisor=16),
    ),
    backbone=dict(type='hstpeft.TunedBackbone'),
    neck=dict(type='mmseg.FPN', out_channels=256, num_outs=4),
    decode_head=dict(
        type='mmseg.FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
del norm_cfg
