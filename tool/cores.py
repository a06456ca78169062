"""How many processor cores this process may use."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where containers and batch systems write limits (Linux)


def cores() -> int:
    """Return the cores that the process is bound to, or those that its container pays for.

    The machine's number misleads where only a few are ours: too many processes wait for each other.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    bound = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # the first word is "max" without a limit
        quota, period = map(int, (CGROUP / "cpu.max").read_text().split())
        return max(1, min(bound, quota // period))
    return bound
