"""What the official codes compute: literal forms, weight recipe, reference cases.

Below tools and tests, which compare with it; nothing else of the package reads it.
"""
