"""What is refused before the first step, each looked at once per run.

When and by whom:

* `paths`, before anything is loaded: `launch.build_runner` (tools/train.py, tools/test.py).
* `model` (`channels`, `img_norm`), when the model has been built: `build_runner`, `apis.init_model`.
* `loaders`, when a data loader is built: `runner.CheckedRunner`; what a batch shows: `promises.at_work`.
* `datasets`, `coco`, before the data are used: `data_hook.DataCheckHook`.
"""
