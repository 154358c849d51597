"""The parts of tools/soak.py, one kind of trial a file; each has ``run``."""

from collections.abc import Callable
from typing import Any

Advance = Callable[[dict[str, Any] | None], None]
"""What a part calls after each trial, with its story if it failed."""
