# Houlsby's two adapters a block, as Adapter+'s authors compare with them: 8 dimensions (or 4), the
# norms trained too; the recipe is that of adapter-plus.py.
tuner = dict(
    type='hstpeft.AdapterPlusTuner',
    form='houlsby',
    adapter_dims=8,
    scale=1.0,
    init='houlsby',
    train_norms=True,
    drop_path_rate=0.1,
)
