"""Seconds of two trainings, alone and beside a busy job, for ways in which threads wait.

    python -m benchmarks.shared_processor

The trainings are 20 iterations of the demo's step 3.1, with its start, and a step 1.1 of full width
with one window of 512. ``GOMP_SPINCOUNT`` is how many rounds a thread of OpenMP spins before it
sleeps: 300,000 by default, 10,000 with what importing ``tool`` sets. The busy job multiplies
matrices on all cores. Takes minutes; whatever else runs disturbs the figures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import table
from data.demo import Demo

REPOSITORY = Path(__file__).parent.parent
SPINS = {"OpenMP's default": "300000", "ours": None}  # None: what the project sets
LIMIT = 240  # seconds
BUSY = """
import torch
a = torch.randn(512, 512)
while True:
    a = (a @ a).clamp(-1, 1)
"""
STEP = """
import tool
import argparse, torch
from benchmarks.steps import measure
settings = argparse.Namespace(threads=torch.get_num_threads(), device="cpu", repeats=2, batch=1)
settings.tiny = False
print(measure("1.1 SIPE", 21, "defaults", settings).seconds)
"""
SEG = "--batch_size 8 --accumulate 1 --crop_size 96 --scales 0.75 1.0 1.25 --optimizer adamw "
SEG += "--lr 4e-4 --head_lr 6 --weight_decay 0.01 --lr_every 1 --iterations 20 --device cpu"


def environment(spins: str | None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))}
    return kept | ({"GOMP_SPINCOUNT": spins} if spins else {})


def printed(command: list[str], spins: str | None) -> str | None:
    """Return what a command prints, or None where it takes more than LIMIT."""
    about = {"cwd": REPOSITORY, "env": environment(spins), "timeout": LIMIT}
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, **about).stdout
    except subprocess.TimeoutExpired:
        return None


def demo(spins: str | None, folder: str) -> float:
    """Return the seconds of the demo's step 3.1 on its true masks."""
    labels = ["--label_dir", str(REPOSITORY / Demo.default_root / "masks")]
    command = [sys.executable, "train_seg.py", "--dataset", "demo", *labels, *SEG.split()]
    command += ["--session_name", folder, "--restart"]
    start = time.perf_counter()
    return float("inf") if printed(command, spins) is None else time.perf_counter() - start


def full_width(spins: str | None, folder: str) -> float:
    """Return the median seconds of a step 1.1."""
    text = printed([sys.executable, "-c", STEP], spins)
    return float("inf") if text is None else float(text.split()[-1])


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    Demo(REPOSITORY / Demo.default_root)  # is drawn first
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, job in (("demo, step 3.1", demo), ("full width, step 1.1", full_width)):
            for rule, spins in SPINS.items():
                alone = job(spins, folder)
                busy = subprocess.Popen([sys.executable, "-c", BUSY], env=environment(None))
                try:
                    beside = job(spins, folder)
                finally:
                    busy.kill()
                    busy.wait()
                rows.append([f"{name}, {rule}", f"{alone:.1f} s", f"{beside:.1f} s"])
                print(f"measured: {rows[-1]}", file=sys.stderr, flush=True)
    print(table(["", "alone", "beside a busy job"], rows))


if __name__ == "__main__":
    main()
