# The trunk is trained too, and the queue is fed by a copy of it that follows slowly.
_base_ = './hma_vit-b32_1xb128-1000i_cifar100.py'
model = dict(
    backbone=dict(tuner=dict(_delete_=True, type='hstpeft.FullTuner')), encoder_momentum=0.999
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
