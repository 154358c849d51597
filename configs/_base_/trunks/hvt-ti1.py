_base_ = './hvt-s0.py'
trunk = dict(arch='hvt_ti_1')
embed_dims = 192
