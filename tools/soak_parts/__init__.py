"""The parts of tools/soak.py, one kind of trial a file; each has ``run``."""
