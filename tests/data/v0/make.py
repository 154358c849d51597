"""Write the deltas, official checkpoints and logits of the `config.json` beside this.

It runs at commit ae5181f only, whose code they are to show:

    git worktree add /tmp/v0 ae5181f
    cd /tmp/v0 && PYTHONPATH=. python REPOSITORY/tests/data/v0/make.py OUT

What `tests.conftest` and `tools.model_converters` mean here is what they were at that commit.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import save_file
from torch import Tensor, nn

from hstpeft.apis import init_model
from hstpeft.delta import load_checkpoint, publishable, save_delta
from hstpeft.engine.checkpoint import describe
from tests.conftest import draw, images, redraw

TRUNK_SEED, TUNER_SEED = 3, 4


def make_system(record: Mapping[str, Any], folder: Path, scratch: Path) -> None:
    """Write deltas, logits and official checkpoints of a system."""
    folder.mkdir(parents=True)
    leaf = write_leaf(record, scratch)
    model = trained(leaf, record)
    state = model.state_dict()
    meta = dict(epoch=1, iter=2, dataset_meta=dict(classes=list('abcde')))
    checkpoint = {'state_dict': state, 'meta': meta}
    for suffix in ('.pth', '.safetensors'):
        save_delta(publishable(checkpoint, **describe(state)), folder / f'delta{suffix}')
    np.savez(folder / 'logits.npz', **logits(model, record['images']))
    for file, (tool, *flags) in record['official'].items():
        make_official(leaf, folder, file, tool, flags, scratch)


def write_leaf(record: Mapping[str, Any], scratch: Path) -> Path:
    """Write a config file as a user has it, with the drawn trunk weights as a file."""
    model = json.loads(json.dumps(record['model']))
    trunk = model['backbone']['trunk']
    if record['trunk_seed'] is not None:
        trunk['weights'] = str(scratch / 'trunk.safetensors')
        net = MODELS.build(record['model']['backbone']['trunk']).net
        shapes = {key: value.shape for key, value in net.state_dict().items()}
        save_file(draw(shapes, record['trunk_seed']), trunk['weights'])
    leaf = scratch / 'leaf.py'
    leaf.write_text(f"default_scope = 'mmpretrain'\nmodel = {model!r}\n")
    return leaf


def trained(leaf: Path, record: Mapping[str, Any]) -> nn.Module:
    """Draw all that is trained, then take two steps of SGD through the host's own loss."""
    torch.manual_seed(0)
    model = init_model(leaf, None, 'cpu').train()
    if record['trunk_seed'] is None:
        net = model.backbone.trunk.net
        net.load_state_dict(draw({k: v.shape for k, v in net.state_dict().items()}, TRUNK_SEED))
    redraw(model, TUNER_SEED)
    for copy in getattr(model.backbone.tuner, 'copies', []):  # SA2VP's frozen ones
        for parameter in copy.parameters():
            parameter.data *= 1.1
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    for step in range(2):
        losses = model(images(4, 3, 32, 32, seed=step), samples, mode='loss')
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if 'loss' in key).backward()
        optimizer.step()
    model.eval()
    for key, value in model.state_dict().items():
        assert not value.is_floating_point() or (value.isfinite().all() and value.any()), key
    return model


def logits(model: nn.Module, shapes: Mapping[str, list]) -> dict[str, np.ndarray]:
    """Compute the logits of the drawn images in float32 and in float64; the model ends as float64."""
    arrays = {}
    with torch.no_grad():
        for dtype in ('float32', 'float64'):
            model.to(getattr(torch, dtype))
            for name, (shape, seed) in shapes.items():
                image = images(*shape, seed=seed).to(getattr(torch, dtype))
                arrays[f'{name}_{dtype}'] = model(image, mode='tensor').numpy()
    return arrays


def make_official(
    leaf: Path, folder: Path, file: str, tool: str, flags: list[str], scratch: Path
) -> None:
    """Write the official checkpoint of a delta; and the delta read back, if it is another."""
    main = importlib.import_module(f'tools.model_converters.{tool}').main
    delta, official = folder / 'delta.safetensors', folder / file
    main(['to-official', str(leaf), str(delta), str(official), *flags])
    back = scratch / 'converted.safetensors'
    main(['to-delta', str(leaf), str(official), str(back)])
    if not same(tensors(back), tensors(delta)):
        back.replace(folder / f'converted_{official.stem}.safetensors')


def tensors(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path)['state_dict']


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def main(out: Path) -> None:
    """Write every system into a folder of its own."""
    torch.set_num_threads(1)
    for path in sorted(Path(__file__).parent.glob('*/config.json')):
        with tempfile.TemporaryDirectory() as scratch:
            make_system(json.loads(path.read_text()), out / path.parent.name, Path(scratch))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
