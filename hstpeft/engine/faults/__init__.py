"""What goes wrong in a step: found before it reaches a weight or a file, and named.

* `finite`, `skipped`, `unused` look at losses and gradients, at each step of an optimiser (`steps`).
* `buffers`: those that differ between processes.
* `lost`, `memory`: errors of collectives and allocators, in words that help.
"""
