# The official recipe of ARC on the fine-grained sets: that of VTAB-1k (arc_vtab-1k.py), but for the
# rate and the decay. A row is (lr, weight decay), as the authors gave them (issue 1 of their
# repository; the script's default is 5e-3 and 1e-2 for all).
_base_ = './arc_vtab-1k.py'
fgvc_recipes = dict(
    cub=(1e-3, 5e-2),
    nabirds=(2e-4, 5e-2),
    flowers=(2.5e-3, 1e-2),
    cars=(5e-3, 5e-2),
    dogs=(2.5e-4, 5e-2),
)
lr, weight_decay = fgvc_recipes['{{$FGVC_TASK:cub}}']
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=weight_decay))
del lr, weight_decay
