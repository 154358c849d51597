# VPT-deep with the official default of five tokens; the paper chooses 1 to 200 by task.
# The official head starts with biases of -log(99), and prompts decay.
tuner = dict(type='hstpeft.VPTTuner', num_tokens=5, deep=True, drop_rate=0.0)
