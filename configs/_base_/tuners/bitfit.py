# BitFit: every bias of the trunk is trained, and nothing is added.
tuner = dict(type='hstpeft.SelectiveTuner', parts=['biases'])
