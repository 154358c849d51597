# Images that the project renders itself: nothing to download. RENDERED_SIZE is their side in pixels.
rendered_size = int('{{$RENDERED_SIZE:64}}')
num_classes = 12
dataset = dict(
    type='hstpeft.RenderedShapes',
    task='dials',
    img_size=rendered_size,
    # For images from elsewhere; rendered ones have this size already.
    pipeline=[
        dict(
            type='Resize',
            scale=(rendered_size, rendered_size),
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='PackInputs'),
    ],
)
loader = dict(num_workers=1, persistent_workers=False, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    batch_size=32,
    dataset=dict(num_samples=1000, seed=1, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    worker_init_fn=dict(type='hstpeft.seed_worker'),
    **loader,
)
val_dataloader = dict(
    batch_size=100,
    dataset=dict(num_samples=500, seed=2, test_mode=True, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = dict(
    batch_size=100,
    dataset=dict(num_samples=1000, seed=3, test_mode=True, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_evaluator = val_evaluator
del dataset, loader
