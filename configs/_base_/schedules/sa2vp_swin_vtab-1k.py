# The official recipe of SA2VP on VTAB-1k with a Swin-B: that of the ViT (sa2vp_vtab-1k.py), but for
# the inner size and the mixing weight. The latter was 0.1, 0.5 or 1.5 by task; which task had which
# is not published, so all have the constant of the official file.
_base_ = './sa2vp_vtab-1k.py'
inner_dims, mixing_weight = 8, 0.5
