# The official width; scale (0.01 to 100) and conv_init are chosen by task. Official recipe: AdamW, rate
# 1e-3, weight decay 1e-4 on all that is trained, 100 epochs (10 of them warm-up), batch 64, drop path
# 0.1 of the trunk.
tuner = dict(
    type='hstpeft.ConvpassTuner',
    positions=['attention', 'mlp'],
    adapter_dims=8,
    scale=1.0,
    conv_init='identity',
    drop_rate=0.1,
)
