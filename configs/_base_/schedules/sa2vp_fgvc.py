# The official recipe of SA2VP on the fine-grained sets: that of VTAB-1k (sa2vp_vtab-1k.py). A row is
# (inner size, mixing weight). Their batch is not published; ours is that of the natural tasks.
_base_ = './sa2vp_vtab-1k.py'
fgvc_recipes = dict(
    cub=(16, 0.1),
    nabirds=(32, 0.1),
    flowers=(8, 0.1),
    cars=(64, 1.5),
    dogs=(32, 0.1),
)
inner_dims, mixing_weight = fgvc_recipes['{{$FGVC_TASK:cub}}']
batch_size = 64
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=batch_size)
