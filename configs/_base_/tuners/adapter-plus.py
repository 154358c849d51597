# Adapter+; the paper also chooses 1 to 32 dimensions by task. The official recipe (ViT-B/16 of
# orig_in21k): AdamW, rate 1e-3, decay 1e-4 for matrices alone (no biases, norms and scales), batch
# 64, 100 epochs, of which 10 warm up from a hundredth of the rate, cosine to a thousandth, drop path
# 0.1 (linear) in the trunk too, bf16; mean and deviation 0.5. VTAB: resized to 224 x 224.
tuner = dict(
    type='hstpeft.AdapterPlusTuner',
    form='post',
    adapter_dims=8,
    scale='channel',
    init='houlsby',
    drop_path_rate=0.1,
)
