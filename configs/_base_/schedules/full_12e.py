# Full fine-tuning on small machines: 12e_adamw.py. A pre-trained trunk is forgotten at the rates that
# suit a tuner, so this one is 50 times lower.
_base_ = './12e_adamw.py'
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=5e-2))
