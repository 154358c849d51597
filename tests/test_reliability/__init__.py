"""The cases of docs/reliability.md: a test is named after its case, e.g. ``test_R4_...``."""
