"""When a run checks its data sets, and that all its processes hear what one of them has found."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from hstpeft.engine.checks.coco import Categories, read_categories
from hstpeft.engine.checks.datasets import check_dataset, datasets_in
from hstpeft.errors import UserError
from hstpeft.registry import HOOKS


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Check the data sets of a run once, before their first use.

    Finds: no images at all, class names that the annotations do not have, no instance of any
    class, files that are missing on disk. Images that ``filter_cfg`` leaves out are counted in
    the log. Validation data are checked before training too. If one process fails, all do.

    Raises:
        UserError: Names the data set, what is wrong and the remedy.
    """

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Check training and validation data."""
        self._check(runner, 'train', runner.train_loop)
        self._check(runner, 'val', runner.val_loop)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data of a run without training."""
        self._check(runner, 'val', runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, 'test', runner.test_loop)

    def _check(self, runner: Runner, name: str, loop: Any) -> None:
        loader = getattr(loop, 'dataloader', None)
        if loader is None or name in self._checked:
            return
        self._checked.add(name)
        parts = dict(datasets_in(f'{name}_dataloader.dataset', loader.dataset))

        def read() -> list[Categories | None]:
            # A file of COCO's size takes a while: one process reads it for all.
            return [read_categories(part) for part in parts.values()] if is_main_process() else []

        def check() -> None:
            for (key, dataset), file in zip(parts.items(), files, strict=True):
                for note in check_dataset(key, dataset, file, _is_scored(loop)):
                    runner.logger.info(note)

        files = in_all(read)[0]
        in_all(check)


class Outcome(NamedTuple):
    """What came of a piece of work in one process.

    Attributes:
        result: What it returned.
        refusal: Message of its `UserError`.
        failure: Name and message of any other error.
    """

    result: Any = None
    refusal: str | None = None
    failure: str | None = None


def in_all(work: Callable[[], Any]) -> list[Any]:
    """Do something in every process; returns what each made of it.

    If it fails in one, it fails in all: they would wait for that one for ever.
    """
    own = None
    try:
        outcome = Outcome(work())
    except UserError as error:
        outcome, own = Outcome(refusal=str(error)), error
    except Exception as error:  # whatever it is, the others must hear of it
        outcome, own = Outcome(failure=f'{type(error).__name__}: {error}'), error
    outcomes = all_gather_object(outcome)
    if own is not None:
        raise own
    for outcome in outcomes:
        if outcome.refusal is not None:
            raise UserError(outcome.refusal)
        if outcome.failure is not None:
            raise RuntimeError(f'another process failed in the check of data: {outcome.failure}')
    return [outcome.result for outcome in outcomes]


def _is_scored(loop: Any) -> bool:
    """Whether the predictions are compared with annotations, not only written to a file."""
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
    return not any(getattr(metric, 'format_only', False) for metric in metrics)
