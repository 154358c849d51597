# Image classification with HMA's memories; the leaf fills in trunk, tuner, class count and norm.
model = dict(
    type='hstpeft.HMAClassifier',
    backbone=dict(type='hstpeft.TunedBackbone', out_type='cls_token'),
    head=dict(
        type='hstpeft.HMAClsHead',
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1,),
    ),
)
