# A scale and a shift behind every layer; it has no options. The official recipe decays none of them
# (AdamW, 100 epochs, rate and drop path by task).
tuner = dict(type='hstpeft.SSFTuner')
