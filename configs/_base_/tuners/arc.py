# Adapters at attention and MLP, as in the official ViT recipes.
tuner = dict(
    type='hstpeft.ARCTuner', positions=['attention', 'mlp'], adapter_dims=50, drop_rate=0.1
)
