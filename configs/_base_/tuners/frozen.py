# Nothing of the trunk is trained: with a linear head this is the linear probe.
tuner = dict(type='hstpeft.FrozenTuner')
