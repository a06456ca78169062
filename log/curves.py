"""The curves of a training: read from ``curves.csv``, a log of the released code, or our record."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tool.errors import InputError
from tool.reader import Damaged, decoding, read_table, read_text

FOLDER = Path(__file__).resolve().parent
FILE = "curves.csv"  # which a trainer writes into its session
WHERE = f"The curves of a training are {FILE} in its session."
LARGEST_STEP = 10_000_000
LONGEST_LINE = 4096  # letters of a log's line that are looked at


@dataclass(frozen=True)
class Recorded:
    """A run to lay beside: its number of updates, and the steps between two rows of our table."""

    total_steps: int
    spacing: int
    origin: str = "published"


PUBLISHED = {  # by the authors
    "voc_repository_run": Recorded(total_steps=3305, spacing=500),
    "voc_cvpr_run": Recorded(total_steps=3305, spacing=500),
    "coco_repository_run": Recorded(total_steps=25650, spacing=2500),
    "coco_cvpr_run": Recorded(total_steps=25650, spacing=2500),
}
HALF_STEPS = 970
OWN = {
    f"voc_half_seed{seed}": Recorded(HALF_STEPS, spacing=120, origin="own") for seed in (15, 16, 17)
}
RECORDED = PUBLISHED | OWN

# What the released code prints: of a step, and of a validation, {'iou': .., 'miou': ..}.
SAMPLE = "step:  510/ 3305 lossCLS:0.0994 lossGSC:0.0159 imps:36.6 lr: 0.0430"
SPACE = r"\s{0,20}"
NUMBER = rf"{SPACE}([-+]?(?:\d{{1,12}}(?:\.\d{{0,20}})?(?:e[-+]?\d{{1,3}})?|nan|inf))"
TRAINING_LINE = re.compile(
    rf"\bstep:{SPACE}(\d{{1,9}}){SPACE}/{SPACE}(\d{{1,9}})\s{{1,20}}loss(?:CLS|C):{NUMBER}"
    rf"\s{{1,20}}loss(?:GSC|L1):{NUMBER}\s{{1,20}}imps:{NUMBER}\s{{1,20}}lr:{NUMBER}"
)
VALIDATION = re.compile(rf"['\"]miou['\"]:{SPACE}(?:np\.float\d+\()?{NUMBER}")
VALIDATED = 500  # steps between two validations of the released code
COLUMNS = ("step", "total", "learning_rate")  # that every table of a training has
SHARED = ("learning_rate", "images_per_second", "miou")
LOSS = "loss_"
IOU = "iou "  # begins the names of columns with the IoU of a class


@dataclass
class Curves:
    """What a run noted; a curve goes from steps, ascending from 0, to values.

    Attributes:
        total_steps: that the run was set to.
        series: the curves by name: losses, means since the row before, begin with ``loss_``;
            ``learning_rate``; ``miou``, a fraction.
        iou: of every validation, by its step: IoU by class name, fractions.
    """

    total_steps: int = 0
    series: dict[str, dict[int, float]] = field(default_factory=dict)
    iou: dict[int, dict[str, float]] = field(default_factory=dict)

    def of(self, name: str) -> dict[int, float]:
        """Return a curve, an empty one where the run noted none."""
        return self.series.get(name, {})

    @property
    def losses(self) -> list[str]:
        """The names of the losses."""
        return [name for name in self.series if name.startswith(LOSS)]

    @property
    def last_step(self) -> int:
        """The last step of which a loss was noted."""
        return max(max(self.series[name]) for name in self.losses)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Note values of a step: of classes by their names after ``iou``, else of curves.

        What is no curve that every training has is a loss, by its name or by ``loss_`` and that.
        """
        for column, value in values.items():
            if column.startswith(IOU):
                self.iou.setdefault(step, {})[column.removeprefix(IOU)] = value
                continue
            loss = column not in SHARED and not column.startswith(LOSS)
            name = f"{LOSS}{column.lower()}" if loss else column
            self.series.setdefault(name, {})[step] = value

    def add_rows(self, rows: Iterable[dict[str, str]]) -> None:
        """Note the rows of a table; Damaged says what is no number or step.

        Half a row, which a killed run leaves, is passed over.
        """
        for row in (row for row in rows if row["learning_rate"]):
            step = _step(row.pop("step"))
            self.total_steps = _step(row.pop("total", str(self.total_steps)))
            self.forget_after(step)
            self.add(step, {column: float(text) for column, text in row.items() if text})

    def forget_after(self, step: int) -> None:
        """Drop what an interrupted run noted after ``step``, before it started again."""
        for curve in (*self.series.values(), self.iou):
            while curve and next(reversed(curve)) > step:
                curve.popitem()


def _step(text: str) -> int:
    if not text.isdecimal() or int(text[:20]) > LARGEST_STEP:
        raise Damaged(f"{text[:30]!r} is no step")
    return int(text)


def read_curves(path: Path) -> Curves:
    """Return the curves of a run.

    Where its steps go back, the run was started again: what it noted after that step is dropped.

    Args:
        path: of a session, of its ``curves.csv``, of a log beside which that lies, or of a log of
            the released code.

    Raises:
        InputError: it cannot be read, or holds no step of a training.
    """
    beside = path / FILE if path.is_dir() else path.with_name(FILE)
    of_session = path.is_dir() or (path.suffix == ".log" and beside.exists())
    table = beside if of_session else path
    if table.suffix != ".csv":
        return parse_log(read_text(path, f"There is no file {path}. {WHERE}").splitlines(), path)
    rows, curves = read_table(table, WHERE, COLUMNS), Curves()
    with decoding(table, WHERE):
        curves.add_rows(rows)
        if not curves.losses:
            raise Damaged("no row with a loss")
    return curves


def parse_log(lines: Iterable[str], path: Path) -> Curves:
    """Return the curves in the lines of a log of the released code; other lines are passed over.

    Raises:
        InputError: no line reports a step of a training; the message names ``path``.
    """
    curves, last = Curves(), -1
    for line in lines:
        line = line[:LONGEST_LINE]
        if match := TRAINING_LINE.search(line):
            step, total = int(match[1]), int(match[2])
            if max(step, total) > LARGEST_STEP:
                continue
            if step <= last:
                curves.forget_after(step)
            last, curves.total_steps = step, total
            losses = {"loss_cls": float(match[3]), "loss_gsc": float(match[4])}
            curves.add(step, {**losses, "learning_rate": float(match[6])})
        elif curves.series and (match := VALIDATION.search(line)):
            step = VALIDATED * round(last / VALIDATED) or last
            curves.add(step, {"miou": float(match[1])})
    if not curves.series:
        raise InputError(f"{path} holds no training line; one looks like\n  {SAMPLE}\n{WHERE}")
    return curves


def read_recorded(name: str) -> Curves:
    """Return the curves of one of ``RECORDED``; the published ones of COCO have no validation."""
    curves = Curves(RECORDED[name].total_steps)
    prefix = f"{RECORDED[name].origin}_{name}"
    curves.add_rows(read_table(FOLDER / f"{prefix}_training.csv", WHERE, ("step", "loss_cls")))
    validation = FOLDER / f"{prefix}_validation.csv"
    for row in read_table(validation, WHERE, ("miou",)) if validation.exists() else ():
        step, miou = int(row.pop("step")), float(row.pop("miou"))
        curves.add(step, {"miou": miou, **{IOU + c: float(text) for c, text in row.items()}})
    return curves


def tables_of(curves: Curves) -> dict[str, list[list]]:
    """Return the curves as tables, the header first: ``training``, and ``validation`` if any."""
    columns = {name: curves.of(name) for name in (*curves.losses, "learning_rate")}
    tables = {"training": _table(columns)}
    if curves.of("miou"):
        classes = list(next(reversed(curves.iou.values()), ()))
        of_class = {c: {step: iou[c] for step, iou in curves.iou.items()} for c in classes}
        tables["validation"] = _table({"miou": curves.of("miou"), **of_class})
    return tables


def _table(columns: dict[str, dict[int, float]]) -> list[list]:
    first = next(iter(columns.values()))
    rows = [[step, *(curve.get(step, math.nan) for curve in columns.values())] for step in first]
    return [["step", *columns], *rows]
