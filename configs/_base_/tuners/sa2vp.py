# The plain form, inner width and mixing weight of the official recipe's natural tasks.
tuner = dict(type='hstpeft.SA2VPTuner', inner_dims=8, mixing_weight=0.1)
