"""The memory that a process took."""

from resource import struct_rusage


def peak_mb(usage: struct_rusage) -> float:
    """Return the peak of a finished process's resident memory in MB, which are 10^6 bytes.

    Args:
        usage: From `os.wait4`; Linux counts in KiB.
    """
    return usage.ru_maxrss * 1024 / 1e6
