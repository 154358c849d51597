"""What `tools/trunk_table.py` is made of: the comparison with timm, and the page."""
