"""Parts of tools/check_reference.py: the recipe, the comparison, and one file per system."""
