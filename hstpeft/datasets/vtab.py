"""VTAB-1k (https://arxiv.org/abs/1910.04867) in the list layout of the PEFT papers."""

from pathlib import Path

from hstpeft.compat import name_classes
from hstpeft.datasets.listed import ListedImages
from hstpeft.errors import UserError
from hstpeft.registry import DATASETS


@DATASETS.register_module()
class VTAB1k(ListedImages):
    """One VTAB-1k task: a folder with ``images/`` and the lists of the repacked VTAB-1k.

    The lists are ``train800.txt``, ``val200.txt``, ``train800val200.txt`` and ``test.txt``; a line
    is ``images/<split>/<number>.jpg <label>``. ``classes.txt``, when it is there, names the labels.
    Arguments as in `ListedImages`.
    """

    def load_data_list(self) -> list[dict]:
        """Read and check the list; take the class names from ``classes.txt``."""
        items = super().load_data_list()
        names = Path(self.data_root, 'classes.txt')
        if names.is_file() and 'classes' not in self.metainfo:
            classes = tuple(names.read_text(encoding='utf-8').splitlines())
            if len(classes) == self.num_classes:
                name_classes(self, classes)
        return items

    def read_entries(self, path: Path) -> list[tuple[str, int, str]]:
        """Read lines of ``<path> <label>``; the path may hold spaces."""
        entries = []
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdigit():
                raise UserError(
                    f"line {number} of {path} is {line!r}: it must be '<image path> <label>', "
                    'the label being a whole number'
                )
            entries.append((name.strip(), int(label), f'line {number} of {path.name}'))
        return entries
