# Every norm of the trunk is trained, weight and bias, and nothing is added.
tuner = dict(type='hstpeft.SelectiveTuner', parts=['norms'])
