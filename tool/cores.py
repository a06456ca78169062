"""How many processor cores this process may use."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where containers and batch systems write limits (Linux)


def cores() -> int:
    """Return the cores that the process is bound to, or those that its container pays for.

    The machine's number misleads where only a few are ours: too many processes wait for each other.
    """
    bound = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return max(1, min(len(bound), _quota() or len(bound)))


def _quota() -> int | None:
    """Return the whole cores of the container's limit of processor time; None without one."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2, 1
        with suppress(OSError, ValueError):
            words = " ".join((CGROUP / file).read_text() for file in files).split()
            quota, period = map(int, words)  # the first word is "max" or -1 without a limit
            return max(1, quota // period) if quota > 0 else None
    return None
