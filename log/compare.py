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

from log import check, curves
from log.charts import picture
from log.curves import OWN, RECORDED, Curves, read_curves, read_recorded
from tool.cli import Parser
from tool.errors import InputError
from tool.run import run
from tool.writer import write_own, write_table


def table_steps(ours: Curves, published: Curves, spacing: int) -> list[int]:
    """Return the published steps that get a row: every ``spacing``, and the last one we reached."""
    reached = [step for step in published.of("loss_cls") if step <= ours.last_step]
    return [step for step in reached if step % spacing == 0 or step == reached[-1]]


def mean_between(curve: dict[int, float], after: int, until: int) -> float | None:
    """Return the mean over the steps in (after, until], or None where nothing was noted."""
    values = [value for step, value in curve.items() if after < step <= until]
    return sum(values) / len(values) if values else None


def cell(value: float | None, digits: int = 4) -> str:
    """Return a number as the tables show it, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a fraction in percent, a dash for None."""
    return cell(None if value is None else 100 * value, 2)


def comparison_table(ours: Curves, published: Curves, spacing: int, headings: str) -> str:
    """Return losses, learning rate and mIoU of both runs at the published steps."""
    lines = [
        f"{'':8}" + "".join(f"{title:>20}" for title in ("lossCLS", "lossGSC", "lr", "mIoU (%)")),
        f"{'step':>8}" + headings * 4,
    ]
    runs, before = (ours, published), -1
    for step in table_steps(ours, published, spacing):
        cells = [cell(mean_between(run.of("loss_cls"), before, step)) for run in runs]
        cells += [cell(mean_between(run.of("loss_gsc"), before, step), 5) for run in runs]
        cells += [cell(run.of("learning_rate").get(step)) for run in runs]
        cells += [percent(run.of("miou").get(step)) for run in runs]
        lines.append(f"{step:8}" + "".join(f"{text:>10}" for text in cells))
        before = step
    return "\n".join(lines)


def class_table(ours: Curves, published: Curves, headings: str) -> str:
    """Return the IoU per class at the last validation that both runs made."""
    shared = sorted(step for step in ours.iou if step in published.iou)
    if not shared:
        return "There is no step at which both runs report the IoU of each class."
    a, b = ours.iou[shared[-1]], published.iou[shared[-1]]
    lines = [f"IoU (%) at step {shared[-1]}", f"{'':16}{headings}"]
    lines += [f"{name:16}{percent(a.get(name)):>10}{percent(b[name]):>10}" for name in b]
    return "\n".join(lines)


def save(ours: Curves, name: Path) -> list[Path]:
    """Write the curves as tables ``name``_training.csv and ``name``_validation.csv; return both.

    Without a validation there is no second table.
    """
    paths = []
    for kind, table in curves.tables_of(ours).items():
        paths.append(name.with_name(f"{name.name}_{kind}.csv"))
        write_table(paths[-1], table)
    return paths


def draw(ours: Curves, published: Curves, name: str, out: Path) -> None:
    """Draw the curves of both runs into the picture ``out``; another ending is an InputError."""
    figure = picture({name: published, "ours": ours})
    kind = out.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"--out {out}: give a name that ends in .png, .svg or .pdf.")
    write_own(out, lambda file: figure.savefig(file, format=kind))


def beside(ours: Curves, against: str | None) -> str:
    """Return the run to lay beside: ``against``, or one of equal length, or VOC's."""
    alike = [name for name, run in RECORDED.items() if run.total_steps == ours.total_steps]
    return against or next(iter(alike), "voc_repository_run")


def compare(path: Path, ours: Curves, name: str, classes: bool) -> str:
    """Return the comparison with a recorded run as text, with a table of classes if wanted."""
    recorded, published = RECORDED[name], read_recorded(name)
    titles = ("this run", "recorded") if recorded.origin == "own" else ("ours", "published")
    headings = "".join(f"{title:>10}" for title in titles)
    lines = [f"{path} and {name}; losses are means since the row above."]
    lines.append(comparison_table(ours, published, recorded.spacing, headings))
    if ours.total_steps != published.total_steps:
        lines.append(
            f"Note: this run is set to {ours.total_steps} steps, {name} made "
            f"{published.total_steps}, so one step means different amounts of training."
        )
    if any(math.isnan(value) for value in ours.of("loss_cls").values()):
        lines.append("Note: the classification loss of this run became NaN.")
    if classes:
        lines.append(f"\n{class_table(ours, published, headings)}")
    return "\n".join(lines)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of this program."""
    parser = Parser(description=__doc__.splitlines()[0])
    run_help = "a session, its curves.csv, or a log of the released code"
    parser.add_argument("run", type=Path, help=run_help)
    against = (
        "run to lay beside; our defaults are those of the repository runs, and voc_half_* are "
    )
    against += "our own at half size (default: one of the run's length, or VOC's repository run)"
    parser.add_argument("--against", choices=RECORDED, help=against)
    check_help = "say stage by stage whether the run follows the published one; the exit status is "
    check_help += "0 where it does, 1 where not, 2 where that cannot be told"
    parser.add_argument("--check", action="store_true", help=check_help)
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
        session = args.run if args.run.is_dir() else args.run.parent
        name = args.against or check.published_run(ours)
        if name:
            print(f"{args.run} beside {name}")
        text, status = check.check(ours, name, session)
        print(text)
        sys.exit(status)
    name = beside(ours, args.against)
    print(compare(args.run, ours, name, args.classes))
    if args.out:
        draw(ours, read_recorded(name), name, args.out)
        print(f"The curves are in {args.out}.")


if __name__ == "__main__":
    run(main)
