# The same model as hvt-s4, by its other name.
_base_ = './hvt-s0.py'
trunk = dict(arch='scale_hvt_ti_4')
