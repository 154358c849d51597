# Any method of HF peft, with the options of its own config; here VeRA, whose frozen projections are
# drawn from a seed and not saved.
tuner = dict(
    type='hstpeft.HFPeftTuner', peft_type='VERA', positions=['qkv'], r=256, save_projection=False
)
