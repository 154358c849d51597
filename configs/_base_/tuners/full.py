# Everything is trained: fine-tuning, or training from scratch where the trunk has no weights.
tuner = dict(type='hstpeft.FullTuner')
