# The official setting for images. Its head is a BatchNorm without affine on the class token
# (neck=dict(type='hstpeft.PooledNorm')), then a Linear.
tuner = dict(
    type='hstpeft.AdaptFormerTuner', form='parallel', adapter_dims=64, scale=0.1, drop_rate=0.1
)
