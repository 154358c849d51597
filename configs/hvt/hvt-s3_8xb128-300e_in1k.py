_base_ = './hvt-s0_8xb128-300e_in1k.py'
model = dict(backbone=dict(trunk=dict(arch='hvt_s_3')))
