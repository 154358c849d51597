# Pfeiffer's adapter, as Adapter+'s authors compare with it; the recipe is that of adapter-plus.py.
tuner = dict(
    type='hstpeft.AdapterPlusTuner',
    form='pfeiffer',
    adapter_dims=8,
    scale=1.0,
    adapter_norm='in',
    init='bert',
    drop_path_rate=0.1,
)
