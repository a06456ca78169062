"""Pictures a second and memory of every long step, and the hours of a whole run they make.

    python -m benchmarks.throughput [--device cuda] [--also bf16]

Each step runs twice in this command: as float32 without any of the speed flags, and with the
defaults of the programs (channels-last, normalisation folded into convolutions at inference; on
CUDA also TF32 convolutions and the fused optimiser). Numbers are those of the device alone; reading
takes some 15 ms a picture and process beside it. The last table says where the time goes inside the
two steps that take most of it, as float32 with channels-last; ``python -m benchmarks.step1`` lays
them beside the plain formulation. ``python -m benchmarks.gpu`` tells all about a card.

Batches are the published ones on CUDA and small ones on the CPU, see --batch.
"""

import argparse
import sys

import torch

from benchmarks import step1
from benchmarks.measure import in_fresh_process, table
from benchmarks.steps import CLASSES, STEPS, batch_of, hours, measure
from tool.cli import pick_device
from tool.run import run


def parser_of(docstring: str, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with what measuring a step takes."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES.values()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, help="of every step that takes several pictures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--tiny", action="store_true", help="narrow networks and small pictures")
    return parser


def about_device(args: argparse.Namespace) -> str:
    """Return what the figures are of."""
    where = pick_device(args.device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    return f"{name}, {args.threads} threads, PyTorch {torch.__version__}"


def hours_table(rates: dict[str, dict[tuple[str, int], float]]) -> str:
    """Return the hours of whole runs, from the pictures a second of each variant."""
    rows = []
    for dataset in CLASSES:
        for variant, of_steps in rates.items():
            parts = hours(of_steps, dataset)
            text = ", ".join(f"{step} {value:.2f}" for step, value in parts.items())
            rows.append([dataset, variant, f"{sum(parts.values()):.2f}", text])
    return table(["", "", "together", "steps"], rows)


def main() -> None:
    """Print the tables."""
    parser = parser_of(__doc__, repeats=3)
    parser.add_argument("--also", nargs="*", choices=["bf16"], default=[], help="more variants")
    args = parser.parse_args()
    variants = ["float32", "defaults", *args.also]
    print(about_device(args))
    rows, rates = [], {variant: {} for variant in variants}
    for step in args.steps:
        some = STEPS[step].with_classes
        for classes in args.classes if some else args.classes[:1]:
            row, plain = [f"{step}, {classes} classes" if some else step, "-"], None
            for variant in variants:
                print(f"measuring: {row[0]}, {variant}", file=sys.stderr, flush=True)
                found = in_fresh_process(measure, step, classes, variant, args)
                if found is None:
                    row += ["out of memory", "-", "-"]
                    continue
                rate = found.pictures / found.seconds
                print(f"  {rate:.3f} pictures a second", file=sys.stderr, flush=True)
                rates[variant][step, classes] = rate
                plain, row[1] = plain or rate, str(found.pictures)
                row += [f"{rate:.2f}", f"{rate / plain:.2f} x", f"{found.bytes / 2**20:.0f}"]
            rows.append(row)
    header = ["", "pictures"]
    for variant in variants:
        header += [f"{variant}: a second", "", "MiB"]
    print(table(header, rows))
    print("\nhours of a whole run on this device, without reading and writing")
    print(hours_table(rates))
    if args.tiny:
        return
    where = pick_device(args.device)
    args.device, args.amp = str(where), "off"
    args.batch_size = args.batch or batch_of("1.1 SIPE", where)
    runs = {}
    for what, function in step1.STEPS.items():
        for classes in args.classes:
            print(f"measuring: parts of {what}, {classes} classes", file=sys.stderr, flush=True)
            runs[what, classes] = in_fresh_process(function, "ours", classes, args)
    print()
    print(step1.where_time_goes(runs))


if __name__ == "__main__":
    run(main)
