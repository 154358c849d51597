# Image classification with HMA's memories; the leaf fills in trunk, tuner, class count and norm.
model = dict(
    type='hstpeft.HMAClassifier',
    backbone=dict(type='hstpeft.TunedBackbone', out_type='cls_token'),
    head=dict(
        type='hstpeft.HMAClsHead',
        local_memory=dict(type='hstpeft.MemoryQueue', size=512),
        attention=dict(type='hstpeft.MemoryAttention', num_heads=4),
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1,),
    ),
)
