"""Measure what a method costs against its literal form, the bare trunk and the floor.

    python tools/benchmark.py [--system hst|arc|sa2vp|hma|tuners] [--batch 8] [--threads 2] [--out FILE.json]

All forms run interleaved in one process, with random weights and images; medians are reported, and
ratios to the first, the literal form (hstpeft/oracle/literal: the equations as written, explicit softmax
attention). Saved activations are the bytes that autograd keeps between forward and backward, each
storage counted once, parameters not counted. A MB is 10^6 bytes.

`--system tuners` has every tuner part instead, and ratios to full fine-tuning. Forms of the others:
    literal         the literal form
    hstpeft, MKL    ours with torch's own Linears in the trunk: only the cheaper algebra
    hstpeft         ours
    timm trunk      the bare timm model (inference only)
    merged          ARC folded into the trunk (inference only), to compare with `bare trunk`
    floor, MKL      trunk forward and input gradient alone, torch's own Linears (SA2VP: of two
                    sequences)
    floor           the same with our frozen Linears: no training through the trunk can be faster

Our frozen Linears run through oneDNN on processors of AMD (`FrozenLinear`). On another one the forms
with and without "MKL" are the same, unless HSTPEFT_ONEDNN=1 is set: so one finds out whether to.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from tools.benchmarks.forms import CLASSES, Forms, Setting

SYSTEMS = ('arc', 'hma', 'hst', 'sa2vp')


def build(system: str, setting: Setting) -> Forms:
    """Build the forms of a system."""
    return importlib.import_module(f'tools.benchmarks.{system}').build(setting)


def infer(model: nn.Module, image: Tensor) -> None:
    """One forward pass without autograd."""
    with torch.inference_mode():
        model(image)


def train_step(model: nn.Module, image: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """One forward, backward and optimiser step."""
    logits = model(image)
    labels = torch.arange(len(logits)) % CLASSES
    F.cross_entropy(logits, labels).backward()
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


def measure(forms: Forms, repeats: int, warmup: int) -> dict:
    """Time all forms interleaved.

    Returns:
        Form -> ``inference_s``, ``step_s`` (lists of seconds), ``saved_bytes``, and its facts.
    """
    models, image = forms.models, forms.inputs
    empty = {name: {'inference_s': [], 'step_s': [], 'saved_bytes': 0} for name in models}
    results = {name: {**own, **forms.facts.get(name, {})} for name, own in empty.items()}
    optimizers = {
        name: torch.optim.AdamW(free)
        for name, model in models.items()
        if (free := [p for p in model.parameters() if p.requires_grad])
    }
    trained = [name for name in models if name not in forms.inference_only]
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
    """Print medians and ratios to the first form."""
    table = Table('form', 'inference s', 'x', 'training step s', 'x', 'saved MB', 'x')
    base = {key: _middle(value) for key, value in next(iter(results.values())).items()}
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
    parser.add_argument('--system', choices=(*SYSTEMS, 'tuners'), default='hst')
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
    forms = build(options.system, Setting(options.arch, options.batch, options.size))
    results = measure(forms, options.repeats, options.warmup)
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
