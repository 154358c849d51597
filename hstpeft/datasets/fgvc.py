"""The five fine-grained sets of the PEFT papers (CUB, NABirds, Flowers, Cars, Dogs)."""

import json
from pathlib import Path

from hstpeft.datasets.listed import ListedImages
from hstpeft.errors import UserError
from hstpeft.registry import DATASETS


@DATASETS.register_module()
class FGVC(ListedImages):
    """A fine-grained set with the JSON splits that VPT published.

    ``train.json``, ``val.json`` and ``test.json`` map an image's path to its class id. The ids of
    ``train.json``, sorted as numbers, are numbered from 0, since those of NABirds have gaps.
    Arguments as in `ListedImages`; image paths are relative to ``data_root/image_folder``.
    """

    def __init__(self, *args, image_folder: str = '', **kwargs) -> None:
        self.image_folder = image_folder
        super().__init__(*args, **kwargs)

    def read_entries(self, path: Path) -> list[tuple[str, int, str]]:
        """Read a JSON split and number its classes as the training split does."""
        train = _read_split(path.with_name('train.json'))
        numbers = {label: i for i, label in enumerate(sorted(set(train.values())))}
        entries = []
        for name, label in _read_split(path).items():
            if label not in numbers:
                raise UserError(f'class {label} of {name} in {path} is not in train.json')
            where = f'entry {name} of {path.name}'
            entries.append((str(Path(self.image_folder, name)), numbers[label], where))
        return entries


def _read_split(path: Path) -> dict[str, int]:
    """Read one split: image path -> class id."""
    if not path.is_file():
        raise UserError(f'ann_file {path} does not exist: fetch the JSON splits of the data set')
    try:
        split = json.loads(path.read_text(encoding='utf-8'))
        return {str(name): int(label) for name, label in split.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f'ann_file {path} is not a JSON object of image paths and whole class ids: {error}'
        ) from error
