# Ours: the fused qkv alone, scaled by alpha / rank = 1.
tuner = dict(type='hstpeft.LoRATuner', positions=['qkv'], rank=8, alpha=8, drop_rate=0.0)
