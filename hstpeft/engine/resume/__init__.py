"""Stopping at any step and going on from there, bit by bit; docs/resume.md says what holds.

* `batches`, `loops`, `rng`: data and random numbers by position.
* `state`: what a training checkpoint holds for it. `settings`: what may differ.
* `signals`: being asked to stop. `work_dir`: one training, and the files of one run.
"""
