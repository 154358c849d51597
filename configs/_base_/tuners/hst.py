# The side widths of the classification recipes; stages are dealt out over the trunk's blocks.
tuner = dict(
    type='hstpeft.HSTTuner',
    side_dims=[32, 48, 64, 72],
    side_heads=[2, 4, 8, 12],
    num_meta_tokens=1,
)
