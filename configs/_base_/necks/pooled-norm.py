# HST's classifier: the mean of the last map, normalised. The leaf fills in in_channels.
neck = dict(type='hstpeft.PooledNorm')
