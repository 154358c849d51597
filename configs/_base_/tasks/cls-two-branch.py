# Image classification with SA2VP's image and prompt branch; the leaf fills in trunk, tuner, class
# count and norm.
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='hstpeft.TunedBackbone'),
    head=dict(
        type='hstpeft.TwoBranchClsHead',
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1,),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
)
