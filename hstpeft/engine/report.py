"""What is said at the start of a training."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import nn

from hstpeft.delta import owner_table
from hstpeft.engine.distributed import unwrapped
from hstpeft.registry import HOOKS


@HOOKS.register_module()
class ParameterTableHook(Hook):
    """Print what is trainable, by owner, before training."""

    def before_train(self, runner: Runner) -> None:
        """Print the table to the log."""
        model = unwrapped(runner.model)
        runner.logger.info('Trainable parameters\n' + render_table(model))


def render_table(model: nn.Module) -> str:
    """Lay out `owner_table` as text, with the sums."""
    rows = owner_table(model)
    rows.append(('all', sum(free for _, free, _ in rows), sum(size for _, _, size in rows)))
    table = Table('owner', *('trainable', 'all', 'share'))
    for column in table.columns[1:]:
        column.justify = 'right'
    for owner, free, size in rows:
        table.add_row(owner, f'{free:,}', f'{size:,}', f'{100 * free / max(size, 1):.2f} %')
    console = Console(width=72, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
