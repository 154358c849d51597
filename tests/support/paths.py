"""Where things lie; nothing else is imported, so that it costs nothing."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
OLD_FILES = ROOT / 'tests' / 'data' / 'v0'
REFERENCE = ROOT / 'tests' / 'reference'
