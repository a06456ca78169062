"""Lay the curves of a training beside those of a published run, or of a recorded one of ours.

Reads:  a session's curves.csv, or a log of the released code; ``published_*.csv``, ``own_*.csv``.
Writes: a table on the screen; with ``--out`` a picture of the curves, and with ``--save NAME`` the
        curves as tables, NAME_training.csv and NAME_validation.csv.

    python log/compare.py exp
    python log/compare.py exp --check
    python log/compare.py exp --against coco_repository_run --out curves.png --classes

It takes a few seconds, and also works on a run that is still going.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from log import charts
from log.check import check
from log.curves import IOU, LOSS, OWN, RECORDED, Curves, alike, read_curves, read_recorded
from log.render import render
from tool.cli import Parser
from tool.errors import InputError
from tool.run import run
from tool.writer import write_own, write_table


def table(runs: list[Curves], spacing: int) -> list[list]:
    """Return rows of a step, and losses, learning rate and mIoU of every run, None where unknown.

    There is a row for every ``spacing`` published steps, and for the last one that we reached;
    losses are means over the steps since the row above.
    """
    ours, published = runs
    reached = [step for step in published.of("loss_cls") if step <= ours.last_step]
    rows, before = [], -1
    for step in reached:
        if step % spacing and step != reached[-1]:
            continue
        cells = [
            _mean(run.window(f"loss_{n}", before, step)) for n in ("cls", "gsc") for run in runs
        ]
        cells += [run.of(name).get(step) for name in ("learning_rate", "miou") for run in runs]
        rows.append([step, *cells])
        before = step
    return rows


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def class_table(runs: list[Curves]) -> tuple[int | None, list[list]]:
    """Return the last step that all runs validated, and rows of a class and its IoU in each run."""
    names = runs[1].names(IOU)
    shared = set.intersection(*({s for name in names for s in run.of(name)} for run in runs))
    if not shared:
        return None, []
    step = max(shared)
    return step, [
        [name.removeprefix(IOU), *(run.rows[step].get(name) for run in runs)] for name in names
    ]


def compare(path: Path, ours: Curves, name: str, classes: bool) -> str:
    """Return the comparison with a recorded run as text, with a table of classes if wanted."""
    runs = [ours, read_recorded(name)]
    return render(
        "compare.txt",
        path=path,
        name=name,
        runs=runs,
        own=name in OWN,
        rows=table(runs, RECORDED[name].spacing),
        became_nan=any(map(math.isnan, ours.of("loss_cls").values())),
        classes=class_table(runs) if classes else None,
    )


def save(ours: Curves, name: Path) -> list[Path]:
    """Write the curves as tables ``name``_training.csv and ``name``_validation.csv; return both.

    Without a validation there is no second table.
    """
    kinds = {
        "training": [*ours.names(LOSS), "learning_rate"],
        "validation": ours.names("miou", IOU),
    }
    paths = []
    for kind, names in kinds.items():
        if names:
            paths.append(name.with_name(f"{name.name}_{kind}.csv"))
            write_table(paths[-1], ours.table(names))
    return paths


def draw(ours: Curves, name: str, out: Path) -> None:
    """Draw the curves of both runs into the picture ``out``; another ending is an InputError."""
    runs = {name: read_recorded(name), "ours": ours}
    figure = charts.draw(runs, charts.names_of(runs))
    kind = out.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"--out {out}: give a name that ends in .png, .svg or .pdf.")
    write_own(out, lambda file: figure.savefig(file, format=kind))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of this program."""
    parser = Parser(description=__doc__.splitlines()[0])
    run_help = "a session, its curves.csv, or a log of the released code"
    parser.add_argument("run", type=Path, help=run_help)
    parser.add_argument(
        "--against",
        choices=RECORDED,
        help="run to lay beside; our defaults are those of the repository runs, and voc_half_* are "
        "our own at half size (default: one of the run's length, or VOC's repository run)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say stage by stage whether the run follows the published one; the exit status is "
        "0 where it does, 1 where not, 2 where that cannot be told",
    )
    out = "also draw the curves of both runs into this picture (.png, .svg)"
    parser.add_argument("--out", type=Path, help=out)
    classes = "also list the IoU of each class at the last validation that both runs made"
    parser.add_argument("--classes", action="store_true", help=classes)
    tables = "also write the curves as NAME_training.csv and NAME_validation.csv"
    parser.add_argument("--save", type=Path, metavar="NAME", help=tables)
    args = parser.parse_args(arguments)
    if args.check and args.against in OWN:
        parser.error(f"--check knows published runs, and {args.against} is one of ours")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison, and draw and save it when asked."""
    args = parse_arguments(arguments)
    ours = read_curves(args.run)
    if args.save:
        print("The curves are in " + " and ".join(map(str, save(ours, args.save))) + ".")
    if args.check:
        text, status = check(args.run, ours, args.against)
        print(text)
        sys.exit(status)
    name = args.against or next(iter(alike(ours)), "voc_repository_run")
    print(compare(args.run, ours, name, args.classes))
    if args.out:
        draw(ours, name, args.out)
        print(f"The curves are in {args.out}.")


if __name__ == "__main__":
    run(main)
