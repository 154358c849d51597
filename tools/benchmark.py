"""Measure what a method costs against its literal form, the bare trunk and the floor.

    python tools/benchmark.py [--system hst] [--batch 8] [--threads 2] [--out FILE.json]

All forms run interleaved in one process, with random weights and images; medians are reported, and
ratios to the literal form (tests/literal: the equations as written, explicit softmax attention).
Saved activations are the bytes that autograd keeps between forward and backward, each storage
counted once, parameters not counted.

Forms:
    literal         the literal form
    hstpeft, MKL    ours with torch's own Linears in the trunk: only the cheaper algebra
    hstpeft         ours
    timm trunk      the bare timm model (inference only)
    floor, MKL      trunk forward and input gradient alone, torch's own Linears
    floor           the same with our frozen Linears: no training through the trunk can be faster
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import timm
import torch
from mmpretrain.registry import MODELS
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta.official import join_hst
from hstpeft.models.trunks import ViTTrunk
from hstpeft.models.trunks.frozen_linear import FrozenLinear
from hstpeft.models.tuners import FrozenTuner
from tests.literal.hst import HSTOptions, LiteralHST
from tools.model_converters.convert import to_official

CLASSES = 100


class TrunkOnly(nn.Module):
    """The floor: run the frozen blocks on tokens that want a gradient."""

    def __init__(self, trunk: ViTTrunk) -> None:
        super().__init__()
        self.trunk, self.places = trunk, FrozenTuner()

    def forward(self, image: Tensor) -> Tensor:
        """Return the class token's first values as stand-in logits."""
        tokens = self.trunk.embed(image)[0].detach().requires_grad_(self.training)
        last = self.trunk.num_layers - 1
        return self.trunk.run(tokens, self.places, [last])[last][:, 0, :CLASSES]


class Logits(nn.Module):
    """Give only the logits of a model that returns more."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.call(self.model, image)


def build_hst(arch: str) -> dict[str, nn.Module]:
    """Build every form of HST with the same weights."""
    weights = timm.create_model(arch, num_classes=0).state_dict()

    def classifier() -> nn.Module:
        return MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(
                    type='hstpeft.TunedBackbone',
                    trunk=dict(type='hstpeft.ViTTrunk', arch=arch, weights=weights),
                    tuner=dict(type='hstpeft.HSTTuner'),
                ),
                neck=dict(type='hstpeft.PooledNorm', in_channels=72),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=72),
            )
        )

    ours = classifier()
    ours_mkl = classifier()
    ours_mkl.load_state_dict(ours.state_dict())
    vit = ours.backbone.trunk.vit
    depths = [len(stage.blocks) for stage in ours.backbone.tuner.side.stages]
    options = HSTOptions(num_heads=vit.blocks[0].attn.num_heads, side_depths=depths)
    literal = LiteralHST(to_official(ours, join_hst), options)
    frozen = [ViTTrunk(arch, weights=weights).requires_grad_(False) for _ in range(2)]
    tensor = lambda model, image: model(image, mode='tensor')  # noqa: E731
    return {
        'literal': Logits(literal, lambda model, image: model(image)[1]),
        'hstpeft, MKL': Logits(plain_linears(ours_mkl), tensor),
        'hstpeft': Logits(ours, tensor),
        'timm trunk': timm.create_model(arch, num_classes=CLASSES),
        'floor, MKL': TrunkOnly(plain_linears(frozen[0])),
        'floor': TrunkOnly(frozen[1]),
    }


SYSTEMS = {'hst': build_hst}


def plain_linears(module: nn.Module) -> nn.Module:
    """Turn the frozen Linears back into torch's own."""
    for child in module.modules():
        if type(child) is FrozenLinear:
            child.__class__ = nn.Linear
    return module


def infer(model: nn.Module, image: Tensor) -> None:
    """One forward pass without autograd."""
    with torch.inference_mode():
        model(image)


def train_step(model: nn.Module, image: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """One forward, backward and optimiser step."""
    labels = torch.arange(len(image)) % CLASSES
    F.cross_entropy(model(image), labels).backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()


def saved_bytes(model: nn.Module, image: Tensor) -> int:
    """Count the bytes of all activations that a forward pass saves for backward."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    own.add(image.untyped_storage().data_ptr())
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(image).sum()
    loss.backward()
    model.zero_grad()
    return sum(sizes.values())


def measure(models: dict[str, nn.Module], image: Tensor, repeats: int, warmup: int) -> dict:
    """Time all forms interleaved.

    Returns:
        Form -> ``inference_s``, ``step_s`` (lists of seconds) and ``saved_bytes``.
    """
    results = {name: {'inference_s': [], 'step_s': [], 'saved_bytes': 0} for name in models}
    optimizers = {
        name: torch.optim.AdamW(free)
        for name, model in models.items()
        if (free := [p for p in model.parameters() if p.requires_grad])
    }
    trained = [name for name in models if name != 'timm trunk']
    for name in trained:
        models[name].train()
        results[name]['saved_bytes'] = saved_bytes(models[name], image)
    for round_ in track(range(warmup + repeats), 'rounds'):
        for name, model in models.items():
            jobs = [('inference_s', lambda m=model: infer(m.eval(), image))]
            if name in trained:
                optimizer = optimizers.get(name)
                jobs.append(
                    ('step_s', lambda m=model, o=optimizer: train_step(m.train(), image, o))
                )
            for key, job in jobs:
                start = time.perf_counter()
                job()
                if round_ >= warmup:
                    results[name][key].append(time.perf_counter() - start)
    return results


def show(results: dict, console: Console) -> None:
    """Print medians and ratios to the literal form."""
    table = Table('form', 'inference s', 'x', 'training step s', 'x', 'saved MB', 'x')
    base = {key: _middle(results['literal'][key]) for key in results['literal']}
    for name, values in results.items():
        cells = []
        for key, scale in (('inference_s', 1), ('step_s', 1), ('saved_bytes', 1e-6)):
            middle = _middle(values[key])
            cells += [f'{middle * scale:.3g}', f'{middle / base[key]:.2f}'] if middle else ['', '']
        table.add_row(name, *cells)
    console.print(table)


def _middle(values: list[float] | int) -> float:
    return values if isinstance(values, int) else statistics.median(values or [0])


def main(arguments: list[str] | None = None) -> None:
    """Measure one system and print the table."""
    parser = argparse.ArgumentParser(description='Cost of a method against its literal form.')
    parser.add_argument('--system', choices=SYSTEMS, default='hst')
    parser.add_argument('--arch', default='vit_base_patch16_224', help='timm model of the trunk')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--out', type=Path, help='write all timings to this JSON file')
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    image = torch.randn(options.batch, 3, options.size, options.size)
    results = measure(SYSTEMS[options.system](options.arch), image, options.repeats, options.warmup)
    show(results, Console(width=100))
    if options.out:
        setting = {k: str(v) for k, v in vars(options).items()}
        machine = {
            'processor': platform.processor() or platform.machine(),
            'torch': torch.__version__,
        }
        options.out.write_text(
            json.dumps({**setting, **machine, 'results': results}, indent=1) + '\n'
        )


if __name__ == '__main__':
    main()
