# The last two blocks of the trunk are trained as a whole, with the norm behind them.
tuner = dict(type='hstpeft.SelectiveTuner', last_blocks=2)
