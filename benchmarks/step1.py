"""Whole training step and whole ``make_cam`` picture: ours, the plain formulation, and the parts.

    python -m benchmarks.step1 [--classes 21 81] [--device cuda]

Training: batch 4, window 512, from decoded bytes on the device to updated weights. Inference: a
375x500 picture at four scales with mirror, from the scaled pictures to maps of full size. What is
compared are the first loss, and the class of the largest map at every pixel.
"""

import pickle
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.profiler import profile

from benchmarks import plain
from benchmarks.measure import Bench, Make
from benchmarks.steps import FLAGS, WINDOW, Job, maps, picture, sipe
from data.transforms import random_pair


def where_time_goes(make: Make, threads: int) -> str:
    """Return a table of the operators that take most of a call."""
    torch.set_num_threads(threads)
    call = make()
    call()
    with profile() as found:
        call()
    return found.key_averages().table(row_limit=12, max_name_column_width=40)


def main() -> None:
    """Print the tables."""
    bench = Bench(__doc__, repeats=2, classes=[21, 81])
    for name, make, batch in ("training step", sipe, 4), ("make_cam picture", maps, 1):
        for classes in bench.args.classes:
            ours = partial(make, Job(bench.device, FLAGS[:3], batch, classes))
            slow = partial(make, Job(bench.device, (), batch, classes), plain.Net)
            bench.compare(f"{name}, {classes} classes", {"ours": ours, "plain": slow})
            print(f"\nwhere our time goes\n{where_time_goes(ours, bench.args.threads)}\n")
    rng = np.random.default_rng(0)
    view = random_pair(Image.fromarray(picture()), None, rng, 1.0, WINDOW)
    floats = (3 + 21) * WINDOW**2 * 4
    print(
        f"bytes to the trainer: {len(pickle.dumps(view)):,}, of float masks and picture {floats:,}"
    )


if __name__ == "__main__":
    main()
