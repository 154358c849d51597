# Adapters at the attention alone (the paper's ARC_att).
tuner = dict(type='hstpeft.ARCTuner', positions=['attention'], adapter_dims=50, drop_rate=0.1)
