# APLA: the output projection of every attention is trained, and nothing is added.
tuner = dict(type='hstpeft.SelectiveTuner', parts=['attention_proj'])
