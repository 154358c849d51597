"""Find the pre-trained transformers that can be tuned."""

import fnmatch
import inspect
from collections.abc import Collection
from typing import NamedTuple

from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.support import Support, read_support
from hstpeft.models.tuners import Tuner
from hstpeft.registry import MODELS


class TrunkRow(NamedTuple):
    """A name of timm, and what can be done with it.

    Attributes:
        arch: timm's name, for ``trunk.arch``.
        trunk: For ``trunk.type``, e.g. ``hstpeft.EvaTrunk``; None if no trunk runs it.
        family: The family of timm that it belongs to.
        dense: Whether it gives maps, for segmentation and detection.
        class_token: Whether it has a class token (``out_type='cls_token'``).
        tuners: For ``tuner.type``: those that are defined for it. An option may ask for more.
        reason: Why no trunk runs it, and what to take instead; else empty.
    """

    arch: str
    trunk: str | None
    family: str
    dense: bool
    class_token: bool
    tuners: tuple[str, ...]
    reason: str


def list_trunks(pattern: str = '*', supported: bool | None = None) -> list[TrunkRow]:
    """List timm's models of the families that trunks are made of, and their refused relatives.

    Each supported one was compared with timm's own outputs, shrunken and with random weights, to
    1e-5 (tools/trunk_table.py, docs/trunks.md).

    Args:
        pattern: Shell pattern on timm's name; without a wildcard, a part of it.
        supported: True for those that a trunk runs, False for those that are refused.
    """
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    _, table = read_support()
    rows = [_to_row(table[arch]) for arch in sorted(fnmatch.filter(table, pattern))]
    return [row for row in rows if supported is None or supported == (row.trunk is not None)]


def defined_tuners(trunk: type[Trunk], lacks: Collection[str] = ()) -> tuple[str, ...]:
    """Name the registered tuners whose needs a class of trunks meets, but for what one lacks."""
    capabilities = trunk.capabilities.difference(lacks)
    return tuple(
        f'hstpeft.{name}'
        for name, kind in sorted(MODELS.module_dict.items())
        if _is_tuner(kind) and capabilities.issuperset(kind.needs)
    )


def _is_tuner(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Tuner)


def _to_row(found: Support) -> TrunkRow:
    kind = found.trunk and f'hstpeft.{found.trunk}'
    tuners = defined_tuners(MODELS.get(kind), found.lacks) if kind else ()
    reason = f'{found.reason}: {found.remedy}' if found.reason else ''
    return TrunkRow(found.arch, kind, found.family, found.maps, found.class_token, tuners, reason)
