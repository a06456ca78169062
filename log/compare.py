"""Lay the curves of a training beside those of a published run, or of a recorded one of ours.

Reads:  a session's curves.csv, or a log of the released code; ``published_*.csv``, ``own_*.csv``.
Writes: a table on the screen; with ``--out`` a picture of the curves, and with ``--save`` a table
        of them like curves.csv.

    python log/compare.py exp
    python log/compare.py exp --check
    python log/compare.py exp --against coco_repository_run --out curves.png --classes

It takes a few seconds, and also works on a run that is still going.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from log import charts
from log.check import check
from log.curves import LOSS, OWN, RECORDED, Curves, nearest, read_curves, read_recorded
from log.render import render
from tool.cli import Parser, Settings, Words
from tool.run import run
from tool.writer import write_own, write_table

ENDINGS = (".png", ".svg", ".pdf")  # of pictures


def table(runs: list[Curves], losses: list[str], spacing: int) -> list[tuple]:
    """Return rows of a step, and losses, learning rate and mIoU of every run, None where unknown.

    There is a row for every ``spacing`` published steps, and for the last one that we reached;
    losses are means over the steps since the row above.
    """
    reached = [step for step in runs[1].of("loss_cls") if step <= runs[0].last_step]
    steps = [step for step in reached if step % spacing == 0 or step == reached[-1]]
    columns = [run.means(name, [-1, *steps]) for name in losses for run in runs]
    columns += [run.of(name) for name in ("learning_rate", "miou") for run in runs]
    return [(step, *(column.get(step) for column in columns)) for step in steps]


def save(ours: Curves, path: Path) -> None:
    """Write the curves as a table like curves.csv."""
    names = ours.names("")
    rows = [[s, ours.total_steps, *map(row.get, names)] for s, row in sorted(ours.rows.items())]
    write_table(path, [["step", "total", *names], *rows])
    print(f"The curves are in {path}.")


def parse_arguments(arguments: Words = None) -> Settings:
    """Return the settings of this program."""
    parser = Parser(__doc__.splitlines()[0])
    flag = parser.add_argument
    flag("run", type=Path, help="a session, its curves.csv, or a log of the released code")
    flag(
        "--against",
        choices=RECORDED,
        help="run to lay beside; our defaults are those of the repository runs, and voc_half_* and "
        "voc_best_* are our own at half size (default: the one of the run's length and the nearest "
        "first rate, or VOC's repository run)",
    )
    flag(
        "--check",
        action="store_true",
        help="say stage by stage whether the run follows the published one; the exit status is "
        "0 where it does, 1 where not, 2 where that cannot be decided",
    )
    flag("--out", type=Path, help="also draw the curves of both runs into this .png, .svg or .pdf")
    classes = "also list the IoU of each class at the last validation that both runs made"
    flag("--classes", action="store_true", help=classes)
    flag("--save", type=Path, help="also write the curves into this file, as curves.csv has them")
    args = parser.parse_args(arguments)
    if args.check and args.against in OWN:
        parser.error(f"--check knows published runs, and {args.against} is one of ours")
    if args.out and args.out.suffix not in ENDINGS:
        parser.error(f"--out {args.out}: give a name that ends in {', '.join(ENDINGS)}")
    return args


def main(arguments: Words = None) -> None:
    """Print the comparison, and draw and save it when asked."""
    args = parse_arguments(arguments)
    ours = read_curves(args.run)
    if args.save:
        save(ours, args.save)
    if args.check:
        text, status = check(args.run, ours, args.against)
        print(text)
        sys.exit(status)
    name = args.against or nearest(ours, RECORDED) or "voc_repository_run"
    runs = [ours, read_recorded(name)]
    losses = list(dict.fromkeys(runs[1].names(LOSS) + ours.names(LOSS)))
    text = render(
        "compare.txt",
        args=args,
        name=name,
        runs=runs,
        own=name in OWN,
        losses=losses,
        rows=table(runs, losses, RECORDED[name]),
        last=max(ours.of("miou").keys() & runs[1].of("miou"), default=None),
    )
    print(text)
    if args.out:
        both = {name: runs[1], "ours": ours}
        figure = charts.draw(both, charts.names_of(both))
        write_own(args.out, lambda file: figure.savefig(file, format=args.out.suffix[1:]))
        print(f"The curves are in {args.out}.")


if __name__ == "__main__":
    run(main)
