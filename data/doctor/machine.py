"""Requirements, device, memory, shared memory, and what a bug report wants to know."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.doctor.finding import GIB, Finding
from tool import cli

REPOSITORY = Path(__file__).parents[2]
# Peak memory of a training of step 1.1 on the CPU, GiB: without, and for a window of 256 x 256.
BASE_MEMORY, WINDOW_MEMORY = 0.7, 0.1
LEAST_SHM = 64 << 20  # bytes


def requirements() -> Iterator[Finding]:
    """Compare what is installed with requirements.txt."""
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    wanted = [re.match(r"([\w-]+)>=([\d.]+)(.*)", line) for line in lines]
    lacking = []
    for name, least, _ in (match.groups() for match in wanted if match):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(f"{name} is missing")
            continue
        if release(version) < release(least):
            lacking.append(f"{name} is {version}, below {least}")
    if lacking:
        yield Finding(
            "FAIL", "requirements", f"{'; '.join(lacking)}. pip install -r requirements.txt"
        )
    else:
        yield Finding("ok", "requirements", f"torch {torch.__version__}, numpy {np.__version__}")


def release(version: str) -> list[int]:  # its first two numbers
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def device(args: cli.Settings) -> Iterator[Finding]:
    """Look for the device that ``--device`` names."""
    found = cli.pick_device(args.device)
    if found.type == "cuda":
        free, total = (n / GIB for n in torch.cuda.mem_get_info(found))
        name = torch.cuda.get_device_name(found)
        yield Finding("ok", "device", f"{found}, {name}, {free:.1f} of {total:.1f} GiB free")
    elif found.type == "cpu":
        cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        yield Finding("warn", "device", f"no CUDA: {cores}; VOC takes days, the demo minutes")
    else:
        yield Finding("warn", "device", f"{found}, which nobody has tried")


def memory(args: cli.Settings) -> Iterator[Finding]:
    """Compare the memory that is free with what a training of step 1.1 takes on the CPU."""
    free = free_memory() / GIB
    windows = args.batch_size * (args.crop_size / 256) ** 2
    needs = BASE_MEMORY + WINDOW_MEMORY * windows
    if args.device != "cpu" and torch.cuda.is_available():
        needs = BASE_MEMORY * (1 + args.num_workers)
    text = f"{free:.1f} GiB free, some {needs:.1f} needed by step 1.1"
    mend = ". Lower --batch_size, --crop_size or --num_workers"
    yield Finding("ok" if free > needs else "warn", "memory", text + mend * (free <= needs))


def free_memory() -> float:
    """Return bytes that this machine, or the container's limit, still has."""
    lines = Path("/proc/meminfo").read_text() if os.path.exists("/proc/meminfo") else ""
    match = re.search(r"MemAvailable:\s*(\d+) kB", lines)
    free = int(match[1]) * 1024 if match else np.inf
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def shared_memory(args: cli.Settings) -> Iterator[Finding]:
    """Look at /dev/shm, through which the loader processes of PyTorch speak to each other."""
    if not os.path.isdir("/dev/shm"):
        return
    total = shutil.disk_usage("/dev/shm").total
    if total < LEAST_SHM and args.num_workers:
        mend = "--num_workers 0, or docker run --shm-size=8g"
        yield Finding(
            "warn", "/dev/shm", f"{total / 2**20:.0f} MiB, which may be too small: {mend}"
        )
    else:
        yield Finding("ok", "/dev/shm", f"{total / GIB:.1f} GiB")


def commit() -> str:
    """Return the commit of this code, with ``-dirty`` behind where files differ from it."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return found or "not known"


def about_machine() -> list[str]:
    """Return what a bug report wants to know."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        f"commit {commit()}, Python {platform.python_version()}, {platform.platform()}",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, device {cuda}",
        f"{os.cpu_count()} cores, {free_memory() / GIB:.1f} GiB free",
        f"flags: {' '.join(sys.argv[1:])}",
    ]
