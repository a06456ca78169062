"""Seconds of two trainings, alone and beside a busy job, for ways in which threads wait.

    python -m benchmarks.shared_processor

The trainings are 20 iterations of the demo's step 3.1, with its start, and a step 1.1 of full width
with one window of 512. ``GOMP_SPINCOUNT`` is how many rounds a thread of OpenMP spins before it
sleeps: 300,000 by default, 10,000 with what importing ``tool`` sets. The busy job multiplies
matrices on all cores. Takes minutes; whatever else runs disturbs the figures.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Bench, Call, Make
from benchmarks.steps import FLAGS, Job, sipe

SPINS = {"OpenMP's default": "300000", "ours": "10000"}
BUSY = """
import os
os.environ.pop("GOMP_SPINCOUNT")  # it is a job of somebody else
import torch
a, parent = torch.randn(512, 512), os.getppid()
while os.getppid() == parent:
    a = (a @ a).clamp(-1, 1)
"""
PROGRAM = Path(__file__).parents[1] / "train_seg.py"
FLAGS_OF_DEMO = """
    --dataset demo --label_dir demo_data/masks --session_name run --restart --device cpu
    --batch_size 8 --accumulate 1 --crop_size 96 --scales 0.75 1.0 1.25 --optimizer adamw
    --lr 4e-4 --head_lr 6 --weight_decay 0.01 --lr_every 1 --iterations 20
"""


def demo(folder: str) -> Call:
    """Return the demo's step 3.1 on its true masks; the first call draws them."""
    command = [sys.executable, str(PROGRAM), *FLAGS_OF_DEMO.split()]

    def call():
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return torch.ones(1)

    return call


def beside(make: Make) -> Call:
    """Return the same call beside a busy job of somebody else."""
    inner = make()

    def call():
        with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
            try:
                return inner()
            finally:
                busy.kill()

    return call


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, repeats=2)
    with tempfile.TemporaryDirectory() as folder:
        trainings = {
            "demo, step 3.1": partial(demo, folder),
            "full width, step 1.1": partial(sipe, Job(bench.device, FLAGS[:4])),
        }
        for name, make in trainings.items():
            for rule, spins in SPINS.items():
                os.environ["GOMP_SPINCOUNT"] = spins  # of the processes that are started
                ways = {"alone": make, "beside a busy job": partial(beside, make)}
                bench.compare(f"{name}, {rule}", ways)


if __name__ == "__main__":
    main()
