"""Parts of tools/benchmark.py: what the systems share, and one file per system."""
