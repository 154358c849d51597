# The side widths of the paper's dense tasks; the heads are 32 wide, which is our choice.
# Whatever reads the maps has in_channels = side_dims.
tuner = dict(
    type='hstpeft.HSTTuner',
    side_dims=[64, 128, 256, 384],
    side_heads=[2, 4, 8, 12],
    num_meta_tokens=1,
)
