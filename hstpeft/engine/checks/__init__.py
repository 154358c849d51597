"""What is refused before the first step, each looked at once per run.

When and by whom:

* `config` (overrides), `inheritance` (what files set), `safe_config` (with ``--safe-config``) and
  `evaluated`: `load_config`.
* `values` (keys, kinds and ranges: `parts`, `signature`, `types`, `plain`, `ranges`) and `paths`,
  before anything is loaded: `launch.build_runner` (tools/train.py, tools/test.py).
* `model` (`channels`, `img_norm`), when the model has been built: `build_runner`, `apis.init_model`.
* `loaders`, when a data loader is built: `runner.CheckedRunner`; what a batch shows: `promises.at_work`.
* `building`, from the first part that is built to the end of the first step: any other error becomes
  one line that names the key (`build_runner`, `runner.CheckedRunner`).
* `datasets`, `coco`, before the data are used: `data_hook.DataCheckHook`.
"""
