# Image classification with mixup, CutMix and label smoothing (timm's defaults); the leaf fills in
# trunk, tuner, neck, class count and norm.
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='hstpeft.TunedBackbone'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1,),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)],
    ),
)
