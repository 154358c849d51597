_base_ = './hvt-s0.py'
trunk = dict(arch='hvt_s_4')
