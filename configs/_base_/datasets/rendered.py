# Images that the project renders itself: nothing to download. RENDERED_SIZE is their side in pixels.
_base_ = './common/classification.py'
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
train_dataloader = dict(num_workers=1, dataset=dict(num_samples=1000, seed=1, **dataset))
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    dataset=dict(num_samples=500, seed=2, test_mode=True, **dataset),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=1,
    dataset=dict(num_samples=1000, seed=3, test_mode=True, **dataset),
)
del dataset
