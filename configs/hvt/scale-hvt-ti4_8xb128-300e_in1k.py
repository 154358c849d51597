_base_ = './hvt-s0_8xb128-300e_in1k.py'
model = dict(backbone=dict(trunk=dict(arch='scale_hvt_ti_4')))
