"""Everything that one wants to know of a card, in at most nine minutes.

    python -m benchmarks.gpu [--minutes 9] [--device cuda:0]

Steps and pictures a second, peak memory, and the projected hours of ``run_voc.sh`` and
``run_coco.sh``, with convolutions in float32, TF32 (the default) and bfloat16; and how far the
cheaper two agree with float32: the relative difference of the first loss of trainings, and the
share of pixels with the same label elsewhere, both of random networks on random pictures. It makes
its own input, leaves nothing behind, and skips what no longer fits into the time. What it shows is
the device alone: reading and writing go on beside it, see docs/processes.md.
"""

import argparse
import time

import numpy as np

from benchmarks.measure import table
from benchmarks.steps import STEPS, Measured, measure
from benchmarks.throughput import about_device, hours_table, parser_of
from tool.run import run

SHOWN = {"fp32": "float32", "defaults": "TF32", "bf16": "bfloat16"}  # variants, and their titles


def agreement(found: Measured, exact: Measured | None, trains: bool) -> str:
    """Return how a result agrees with that in float32."""
    if exact is None:
        return "-"
    if trains:
        return f"{abs(found.result / exact.result - 1):.1e}"
    return f"{100 * np.mean(found.result == exact.result):.2f} %"


def row_of(step: str, classes: int, args: argparse.Namespace, deadline: float, rates) -> list[str]:
    """Return a row of the table, and note the pictures a second of every variant in ``rates``."""
    kind, exact = STEPS[step], None
    row = [f"{step}, {classes} classes" if kind.with_classes else step, "-"]
    for variant in SHOWN:
        if time.monotonic() > deadline:
            row += ["skipped", "-", "-", "-"]
            continue
        found = measure(step, classes, variant, args)
        if found is None:
            row += ["out of memory", "-", "-", "-"]
            continue
        exact = found if variant == "fp32" else exact
        rate = found.pictures / found.seconds
        rates[variant][step, classes] = rate
        row[1] = str(found.pictures)
        row += [f"{1 / found.seconds:.2f}", f"{rate:.1f}", f"{found.bytes / 2**30:.2f}"]
        row.append("" if variant == "fp32" else agreement(found, exact, kind.trains))
    return row


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--minutes", type=float, default=9, help="what no longer fits is skipped")
    args = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * args.minutes
    print(about_device(args))
    rates = {variant: {} for variant in SHOWN}
    rows = []
    for step in args.steps:
        for classes in args.classes if STEPS[step].with_classes else args.classes[:1]:
            rows.append(row_of(step, classes, args, deadline, rates))
            print(f"  {rows[-1][0]}: {time.monotonic() - deadline + 60 * args.minutes:.0f} s")
    header = ["", "pictures"]
    for title in SHOWN.values():
        header += [f"{title}: steps/s", "pictures/s", "GiB", "agrees"]
    print(table(header, rows))
    print("\nhours of a whole run on this device")
    print(hours_table({SHOWN[variant]: of_steps for variant, of_steps in rates.items()}))


if __name__ == "__main__":
    run(main)
