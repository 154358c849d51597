"""Parts of tools/benchmark.py: what the systems share, and one file a system."""
