"""Lay a training log beside a published run of the same method, or a recorded one of ours.

Reads:  the log of ``train_resnet50_SIPE.py``; the tables ``published_*.csv`` and ``own_*.csv``.
Writes: a table on the screen; with ``--out`` a picture of the curves (needs matplotlib), and with
        ``--save NAME`` the curves of the log as tables, NAME_training.csv and NAME_validation.csv.

    python log/compare.py exp/exp.log
    python log/compare.py exp/exp.log --check
    python log/compare.py exp/exp.log --against coco_repository_run --out curves.png --classes

It takes a second or two, and also works on the log of a run that is still going.
"""

import argparse
import csv
import importlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """A run to lay beside: its number of updates, and the steps between two rows of our table."""

    total_steps: int
    spacing: int
    origin: str = "published"


RUNS = {  # by the authors
    "voc_repository_run": Run(total_steps=3305, spacing=500),
    "voc_cvpr_run": Run(total_steps=3305, spacing=500),
    "coco_repository_run": Run(total_steps=25650, spacing=2500),
    "coco_cvpr_run": Run(total_steps=25650, spacing=2500),
}
HALF_STEPS = 970
OWN = {f"voc_half_seed{seed}": Run(HALF_STEPS, spacing=120, origin="own") for seed in (15, 16, 17)}
BESIDE = RUNS | OWN

SAMPLE = "step:  510/ 3305 lossCLS:0.0994 lossGSC:0.0159 imps:36.6 lr: 0.0430"
NUMBER = r"([-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf))"
TRAINING_LINE = re.compile(
    rf"\bstep:\s*(\d+)\s*/\s*(\d+)\s+loss(?:CLS|C):\s*{NUMBER}\s+loss(?:GSC|L1):\s*{NUMBER}"
    rf"\s+imps:\s*{NUMBER}\s+lr:\s*{NUMBER}"
)
CLASS_LINE = re.compile(rf"\biou (.+?):\s*{NUMBER}\s*$")
# What the released code prints of a validation, on one line or several: {'iou': .., 'miou': ..}.
PRINTED = re.compile(rf"['\"]miou['\"]:\s*(?:np\.float\d+\()?{NUMBER}")
VALIDATION_LINE = re.compile(rf"\bvalidation step:\s*(\d+)\s+miou:\s*{NUMBER}")

VALIDATED = 500  # steps between two validations of the released code
LOGGED = ("loss_cls", "loss_gsc", "learning_rate")
SMOOTH = 11  # rows in the running mean that the picture draws over the raw losses


@dataclass
class Curves:
    """What a run logged; every dictionary goes from a step, counted from 0, to a value.

    The losses are means since the row before, mIoU and IoU are fractions.
    """

    loss_cls: dict[int, float] = field(default_factory=dict)
    loss_gsc: dict[int, float] = field(default_factory=dict)
    learning_rate: dict[int, float] = field(default_factory=dict)
    miou: dict[int, float] = field(default_factory=dict)
    iou: dict[int, dict[str, float]] = field(default_factory=dict)  # step -> class name -> IoU
    total_steps: int = 0

    def forget_after(self, step: int) -> None:
        """Drop what an interrupted run logged after ``step``, before it started again."""
        for curve in (self.loss_cls, self.loss_gsc, self.learning_rate, self.miou, self.iou):
            for later in [s for s in curve if s > step]:
                del curve[later]


def parse_log(lines: Iterable[str]) -> Curves:
    """Return the curves in the lines of a log; all other lines are passed over.

    Where the steps go back, the run was started again: the line of that step replaces the earlier
    one, and what was logged after it is dropped. A log in which no line reports a training step
    raises a ValueError.
    """
    curves = Curves()
    classes: dict[str, float] = {}
    for line in lines:
        if match := TRAINING_LINE.search(line):
            step = int(match[1])
            if curves.loss_cls and step <= max(curves.loss_cls):
                curves.forget_after(step)
            curves.total_steps, classes = int(match[2]), {}
            curves.loss_cls[step] = float(match[3])
            curves.loss_gsc[step] = float(match[4])
            curves.learning_rate[step] = float(match[6])
        elif match := VALIDATION_LINE.search(line):
            step = int(match[1])
            curves.miou[step], curves.iou[step], classes = float(match[2]), classes, {}
        elif (match := PRINTED.search(line)) and curves.loss_cls:
            last = max(curves.loss_cls)
            curves.miou[VALIDATED * round(last / VALIDATED) or last] = float(match[1])
        elif match := CLASS_LINE.search(line):
            classes[match[1]] = float(match[2])
    if not curves.loss_cls:
        raise ValueError(f"holds no training line; one looks like\n  {SAMPLE}")
    return curves


def read_log(path: Path) -> Curves:
    """Return the curves of a log file; a ValueError names one that is no training log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_log(file)
    except OSError as error:
        where = "The log of a training run is <session>/<session>.log."
        raise ValueError(f"{path} cannot be read ({error.strerror}). {where}") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def read_published(name: str) -> Curves:
    """Return the curves of one of ``BESIDE``; the published ones of MS COCO have no validation."""
    curves = Curves(total_steps=BESIDE[name].total_steps)
    prefix = f"{BESIDE[name].origin}_{name}"
    with open(FOLDER / f"{prefix}_training.csv", newline="") as file:
        for row in csv.DictReader(file):
            for column in LOGGED:
                getattr(curves, column)[int(row["step"])] = float(row[column])
    validation = FOLDER / f"{prefix}_validation.csv"
    if validation.exists():
        with open(validation, newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                curves.miou[step] = float(row.pop("miou"))
                curves.iou[step] = {label: float(value) for label, value in row.items()}
    return curves


def save(curves: Curves, name: Path) -> list[Path]:
    """Write the curves as tables ``name``_training.csv and ``name``_validation.csv; return both.

    Without a validation there is no second table. A ValueError names a file that cannot be written.
    """
    rows = [[step, *(getattr(curves, c)[step] for c in LOGGED)] for step in curves.loss_cls]
    tables = {"training": [["step", *LOGGED], *rows]}
    if curves.miou:
        classes = list(curves.iou[max(curves.iou)]) if curves.iou else []
        rows = [
            [step, miou, *(curves.iou.get(step, {}).get(c, math.nan) for c in classes)]
            for step, miou in curves.miou.items()
        ]
        tables["validation"] = [["step", "miou", *classes], *rows]
    paths = []
    for kind, table in tables.items():
        path = name.with_name(f"{name.name}_{kind}.csv")
        with replaced(path) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)
        paths.append(path)
    return paths


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield where to write a file that then stands at ``path``, whole or not at all.

    A ValueError says that it cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the ending, thus the format
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def table_steps(ours: Curves, published: Curves, spacing: int) -> list[int]:
    """Return the published steps that get a row: every ``spacing``, and the last one we reached."""
    reached = [step for step in published.loss_cls if step <= max(ours.loss_cls)]
    return [step for step in reached if step % spacing == 0 or step == reached[-1]]


def mean_between(curve: dict[int, float], after: int, until: int) -> float | None:
    """Return the mean over the steps in (after, until], or None where nothing was logged."""
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
        cells = [cell(mean_between(run.loss_cls, before, step)) for run in runs]
        cells += [cell(mean_between(run.loss_gsc, before, step), 5) for run in runs]
        cells += [cell(run.learning_rate.get(step)) for run in runs]
        cells += [percent(run.miou.get(step)) for run in runs]
        lines.append(f"{step:8}" + "".join(f"{text:>10}" for text in cells))
        before = step
    return "\n".join(lines)


def class_table(ours: Curves, published: Curves, headings: str) -> str:
    """Return the IoU per class at the last validation that both runs made."""
    shared = sorted(step for step in ours.iou if ours.iou[step] and step in published.iou)
    if not shared:
        return "There is no step at which both runs report the IoU of each class."
    a, b = ours.iou[shared[-1]], published.iou[shared[-1]]
    lines = [f"IoU (%) at step {shared[-1]}", f"{'':16}{headings}"]
    lines += [f"{name:16}{percent(a.get(name)):>10}{percent(b[name]):>10}" for name in b]
    return "\n".join(lines)


def smooth(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    """Return steps and the mean of up to ``SMOOTH`` rows centred on each."""
    steps, values = list(curve), list(curve.values())
    half = SMOOTH // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return steps, [sum(window) / len(window) for window in windows]


def draw(ours: Curves, published: Curves, name: str, out: Path) -> None:
    """Draw both losses and the mIoU of both runs into the picture ``out``.

    A ValueError says that matplotlib is missing, that the ending is no picture format, or that
    ``out`` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("--out needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(13, 4), layout="constrained", dpi=120)
    cls_axes, gsc_axes, miou_axes = figure.subplots(1, 3)
    for curves, label, colour in ((published, name, "tab:gray"), (ours, "ours", "tab:blue")):
        for axes, curve in ((cls_axes, curves.loss_cls), (gsc_axes, curves.loss_gsc)):
            axes.plot(list(curve), list(curve.values()), color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(*smooth(curve), color=colour, label=label)
        if curves.miou:
            values = [100 * value for value in curves.miou.values()]
            miou_axes.plot(list(curves.miou), values, "o-", color=colour, label=label)
    cls_axes.set(title="classification loss", yscale="log")
    gsc_axes.set(title="general-specific consistency loss", yscale="log")
    miou_axes.set(title="mIoU in validation (%)")
    for axes in (cls_axes, gsc_axes, miou_axes):
        axes.set(xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with replaced(out) as temporary:
        figure.savefig(temporary)


def check_run(log: Path, ours: Curves, name: str | None) -> int:
    """Print whether a run follows the published one of that name, and return the exit status."""
    check = importlib.import_module(f"{__package__}.check" if __package__ else "check")
    why, findings = None, []
    name = name or check.published_run(ours, RUNS)
    if name is None:
        lengths = ", ".join(f"{steps} ({dataset})" for dataset, (_, steps) in check.LISTED.items())
        why = f"it is set to {ours.total_steps} steps, and the published ones made {lengths}"
    else:
        print(f"{log} beside {name}")
        published = read_published(name)
        findings = list(check.examine(ours, published, name, RUNS[name].spacing, log))
    text, status = check.report(findings, ours, why)
    print(text)
    return status


def main(argv: list[str] | None = None) -> None:
    """Print the comparison and draw it when asked; a file that is no log ends in status 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="log of a training run, <session>/<session>.log")
    beside = "run to lay beside; our defaults are those of the repository runs, and voc_half_* are "
    beside += "our own at half size (default: one of the log's length, or VOC's repository run)"
    parser.add_argument("--against", choices=BESIDE, help=beside)
    check = "say stage by stage whether the run follows the published one; the exit status is 0 "
    check += "where it does, 1 where not, 2 where that cannot be told"
    parser.add_argument("--check", action="store_true", help=check)
    picture = "also draw the curves of both runs into this picture (.png, .svg)"
    parser.add_argument("--out", type=Path, help=picture)
    classes = "also list the IoU of each class at the last validation that both runs made"
    parser.add_argument("--classes", action="store_true", help=classes)
    tables = "also write the curves of the log as NAME_training.csv and NAME_validation.csv"
    parser.add_argument("--save", type=Path, metavar="NAME", help=tables)
    args = parser.parse_args(argv)
    if args.check and args.against in OWN:
        parser.error(f"--check knows published runs, and {args.against} is one of ours")
    try:
        ours = read_log(args.log)
        if args.save:
            print("The curves are in " + " and ".join(map(str, save(ours, args.save))) + ".")
        if args.check:
            sys.exit(check_run(args.log, ours, args.against))
        alike = [name for name, run in BESIDE.items() if run.total_steps == ours.total_steps]
        args.against = args.against or next(iter(alike), "voc_repository_run")
        run, published = BESIDE[args.against], read_published(args.against)
        print(f"{args.log} and {args.against}; losses are means since the row above.")
        of_own = run.origin == "own"
        titles = ("this run", "recorded") if of_own else ("ours", "published")
        headings = "".join(f"{title:>10}" for title in titles)
        print(comparison_table(ours, published, run.spacing, headings))
        if ours.total_steps != published.total_steps:
            print(
                f"Note: this run is set to {ours.total_steps} steps, {args.against} made "
                f"{published.total_steps}, so one step means different amounts of training."
            )
        if any(math.isnan(value) for value in ours.loss_cls.values()):
            print("Note: the classification loss of this run became NaN.")
        if args.classes:
            print("\n" + class_table(ours, published, headings))
        if args.out:
            draw(ours, published, args.against, args.out)
            print(f"The curves are in {args.out}.")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
