# DoRA by HF peft: LoRA on the direction of each row of a weight, and a trained magnitude.
tuner = dict(type='hstpeft.HFPeftTuner', peft_type='DORA', positions=['qkv'], r=8, lora_alpha=8)
