"""What a COCO file says about itself, of which mmdet keeps no record."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hstpeft.engine.checks.paths import is_local
from hstpeft.errors import UserError


class Categories(NamedTuple):
    """What a COCO file says about itself.

    Attributes:
        num_images: Images that it lists.
        names: Of each category id.
    """

    num_images: int
    names: dict[int, str]


def read_categories(dataset: Any) -> Categories | None:
    """Read the categories of a data set's COCO file; None for other data sets."""
    if not hasattr(dataset, 'cat_ids') or not str(dataset.ann_file).endswith('.json'):
        return None
    if not is_local(dataset.ann_file, vars(dataset)):
        return None
    content = json.loads(Path(dataset.ann_file).read_bytes())
    names = {category['id']: category['name'] for category in content.get('categories', ())}
    return Categories(len(content.get('images', ())), names)


def check_classes(key: str, dataset: Any, file: Categories) -> list[str]:
    """Compare the class names with the file's: mmdet drops a name that it does not find.

    All later classes would then get the label of their neighbour.
    """
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise UserError(
            f"{key}.metainfo.classes {classes!r} is no list of names: write ('{classes}',)"
        )
    known = list(file.names.values())
    unknown = [name for name in classes if name not in known]
    if unknown and len(dataset.cat_ids) < len(classes):
        raise UserError(
            f'{key}.metainfo.classes: {quoted(unknown)} match no category of {dataset.ann_file}, '
            f'which has {quoted(known)}: fix the names'
        )
    labelled = [file.names[index] for index in dataset.cat_ids]
    if labelled != list(classes) and sorted(labelled) == sorted(classes):
        raise UserError(
            f'{key}.metainfo.classes {quoted(classes)} are in another order than the categories '
            f'of {dataset.ann_file}, by which mmdet numbers them: set {tuple(labelled)}'
        )
    unused = [name for name in known if name not in classes]
    if not unused:
        return []
    return [f'{key}: the categories {quoted(unused)} of {dataset.ann_file} are in no class']


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Write out names for a message; of many the first ones."""
    shown = ', '.join(map(repr, names[:most]))
    return shown + (f' and {len(names) - most} more' if len(names) > most else '')
