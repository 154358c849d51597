# For small machines and heads that AdamW overfits: 12e_adamw.py with SGD.
_base_ = './12e_adamw.py'
optim_wrapper = dict(
    _delete_=True,
    constructor='hstpeft.DeltaOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.0),
)
