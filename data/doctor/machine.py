"""Requirements, device, memory, shared memory, and what a bug report wants to know."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from data.doctor.finding import GIB, Check
from tool import cli
from tool.cores import CGROUP
from tool.errors import InputError
from tool.reader import read_text

REPOSITORY = Path(__file__).parents[2]
# Peak memory of a training of step 1.1 on the CPU, GiB: without, and for a window of 256 x 256.
BASE_MEMORY, WINDOW_MEMORY = 0.7, 0.1
LEAST_SHM = 64 << 20  # bytes


def requirements() -> Check:
    """Compare what is installed with requirements.txt."""
    lacking = []
    text = read_text(REPOSITORY / "requirements.txt")
    for name, least in re.findall(r"^([\w-]+)>=([\d.]+)", text, re.MULTILINE):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        if release(version) < release(least):
            lacking.append(f"{name} is {version}, not {least} or newer")
    if lacking:
        raise InputError(f"{'; '.join(lacking)}. pip install -r requirements.txt")
    yield "ok", f"torch {torch.__version__}, numpy {np.__version__}"


def release(version: str) -> list[int]:
    """Return the first two numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def device(name: str, processes: int) -> Check:
    """Look for the device that ``--device`` names, one for each process where it is a GPU."""
    found = cli.pick_device(name, processes=processes)
    if found.type == "cuda":
        free, total = (n / GIB for n in torch.cuda.mem_get_info(found))
        gpu = torch.cuda.get_device_name(found)
        yield "ok", f"{found}, {gpu}, {free:.1f} of {total:.1f} GiB free"
    else:
        threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        yield "warn", f"no CUDA: {threads}; VOC takes days, the demo minutes"


def memory(batch_size: int, crop_size: int, num_workers: int, device: str) -> Check:
    """Compare the memory that is free with what a training of step 1.1 takes."""
    needs = BASE_MEMORY + WINDOW_MEMORY * batch_size * (crop_size / 256) ** 2
    if device != "cpu" and torch.cuda.is_available():
        needs = BASE_MEMORY * (1 + num_workers)
    free = free_memory() / GIB
    text = f"{free:.1f} GiB free, some {needs:.1f} needed by step 1.1, less with a lower"
    status = "ok" if free > needs else "warn"
    yield status, f"{text} --batch_size, --crop_size or --num_workers"


def free_memory() -> float:
    """Return bytes that this machine, or the container's limit, still has."""
    free = [np.inf]
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text()
        free += [1024 * int(number) for number in re.findall(r"MemAvailable:\s*(\d+)", lines)]
    with suppress(OSError, ValueError):  # without a limit there is no number
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        free.append(int(limit) - int(used))
    return min(free)


def shared_memory(num_workers: int) -> Check:
    """Look at /dev/shm, through which the loader processes of PyTorch speak to each other."""
    if os.path.isdir("/dev/shm") and num_workers:
        total = shutil.disk_usage("/dev/shm").total
        status = "ok" if total >= LEAST_SHM else "warn"
        more = "more by docker run --shm-size=8g, none needed with --num_workers 0"
        yield status, f"{total / 2**20:.0f} MiB; {more}"


def commit() -> str:
    """Return the commit of this code, with ``-dirty`` behind where files differ from it."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    found = ""
    with suppress(OSError):  # where there is no git
        found = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return found or "not known"


def about_machine() -> list[str]:
    """Return what a bug report wants to know."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        f"commit {commit()}, Python {platform.python_version()}, {platform.platform()}",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, device {cuda}",
        f"{os.cpu_count()} cores",
        f"flags: {' '.join(sys.argv[1:])}",
    ]
