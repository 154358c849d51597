# The official setting: as fact-tt.py, but the rank is 16 or 32.
tuner = dict(type='hstpeft.FacTTuner', form='tk', rank=32, scale=1.0, drop_rate=0.1)
