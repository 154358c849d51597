# Five tokens enter at the first block and stay; the class token is trained too.
tuner = dict(
    type='hstpeft.MemoryTokensTuner', mode='prop', num_memory_tokens=5, train_cls_token=True
)
