"""What runs in a process of its own, as a user's does: it knows a host, but nothing of hstpeft.

python host_process.py train OUT.pth TOOL.py CONFIG [ARGUMENTS]     their tool, and what it trained
python host_process.py ask OUT.pth CONFIG CHECKPOINT DELTA          their ways to load a model
"""

import runpy
import sys
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn


def answers(model: nn.Module, loader: Iterable[dict]) -> list[dict[str, Any]]:
    """Raw outputs and predictions for each image of a loader."""
    model.eval()
    found = []
    with torch.no_grad():
        for batch in loader:
            raw = model(**model.data_preprocessor(batch, False), mode='tensor')
            found.append(dict(raw=tensors(raw), predicted=predicted(model.test_step(batch)[0])))
    return found


def tensors(value: Any) -> list[Tensor]:
    """Flatten nested sequences."""
    return [value] if isinstance(value, Tensor) else [t for item in value for t in tensors(item)]


def predicted(sample: Any) -> dict[str, Tensor]:
    """Take the tensors of a prediction of mmseg or mmdet."""
    if 'pred_instances' in sample:
        return dict(sample.pred_instances.items())
    return dict(classes=sample.pred_sem_seg.data, logits=sample.seg_logits.data)


def train(out: str, tool: str, *arguments: str) -> None:
    """Run a training tool, and write the answers of the model that it leaves in memory."""
    original = Runner.train

    def recorded(runner: Runner) -> nn.Module:
        model = original(runner)
        torch.save(answers(model, runner.val_loop.dataloader), out)
        return model

    Runner.train = recorded
    sys.argv = [tool, *arguments]
    runpy.run_path(tool, run_name='__main__')


def ask(out: str, config: str, checkpoint: str, delta: str) -> None:
    """Load checkpoint and delta in every way of a host, and write the answers."""
    cfg = Config.fromfile(config)
    if cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer, inference_model, init_model

        inferencer = MMSegInferencer(config, delta, device='cpu')
    else:
        from mmdet.apis import DetInferencer as Inferencer
        from mmdet.apis import inference_detector as inference_model
        from mmdet.apis import init_detector as init_model

        inferencer = Inferencer(config, delta, device='cpu')
    models = {path: init_model(config, path, device='cpu') for path in (checkpoint, delta)}
    loader = Runner.build_dataloader(cfg.test_dataloader)
    found = {name: answers(models[path], loader)
             for name, path in (('checkpoint', checkpoint), ('delta', delta))}  # fmt: skip
    paths = [loader.dataset.get_data_info(index)['img_path'] for index in range(len(loader))]
    found['inference'] = [predicted(inference_model(models[delta], path)) for path in paths]
    results = [inferencer(path, return_datasamples=True) for path in paths]
    found['inferencer'] = [
        predicted(result['predictions'][0] if isinstance(result, dict) else result)
        for result in results
    ]
    torch.save(found, out)


if __name__ == '__main__':
    dict(train=train, ask=ask)[sys.argv[1]](*sys.argv[2:])
