"""The curves of a training: read from ``curves.csv``, a log of the released code, or our record."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tool.reader import Damaged, decoding, read_table, read_text, regular

FOLDER = Path(__file__).resolve().parent
FILE = "curves.csv"  # which a trainer writes into its session
WHERE = f"The curves of a training are {FILE} in its session."
LARGEST_STEP = 10_000_000


# Runs to lay beside, by the authors and ours, and the steps between two rows of our table.
PUBLISHED = {
    "voc_repository_run": 500,
    "voc_cvpr_run": 500,
    "coco_repository_run": 2500,
    "coco_cvpr_run": 2500,
}
OWN = {f"voc_{preset}_seed{seed}": 120 for preset in ("half", "best") for seed in (15, 16, 17)}
RECORDED = PUBLISHED | OWN

# What the released code prints: of a step, and of a validation, {'iou': .., 'miou': ..}.
SAMPLE = "step:  510/ 3305 lossCLS:0.0994 lossGSC:0.0159 imps:36.6 lr: 0.0430"
NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)"
TRAINING_LINE = re.compile(
    r"\bstep:\s*(?P<step>\d{1,7})\s*/\s*(?P<total>\d{1,7})"
    rf"\s+loss(?:CLS|C):\s*(?P<loss_cls>{NUMBER})\s+loss(?:GSC|L1):\s*(?P<loss_gsc>{NUMBER})"
    rf"\s+imps:\s*{NUMBER}\s+lr:\s*(?P<learning_rate>{NUMBER})"
)
VALIDATION = re.compile(rf"['\"]miou['\"]:\s*(?:np\.float\d+\()?\s*({NUMBER})")
VALIDATED = 500  # steps between two validations of the released code
LOSS = "loss_"  # begins the names of losses

Entry = tuple[int, int, dict[str, float]]  # step, total steps, values by name


@dataclass
class Curves:
    """What a run noted.

    Attributes:
        total_steps: that the run was set to.
        rows: by step, from 0, values by name: losses, means since the row before, begin with
            ``loss_``; ``learning_rate``; ``miou`` and ``iou <class>``, fractions.
    """

    total_steps: int = 0
    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def of(self, name: str) -> dict[int, float]:
        """Return a curve, step -> value, steps ascending; empty where the run noted none."""
        return {step: row[name] for step, row in sorted(self.rows.items()) if name in row}

    def means(self, name: str, ends: Sequence[int], least: int = 1) -> dict[int, float]:
        """Return the mean of a curve since the end before, by the ends but for the first.

        Ends with fewer than ``least`` values are left out.
        """
        curve, found = self.of(name).items(), {}
        for after, end in pairwise(ends):
            values = [value for step, value in curve if after < step <= end]
            if len(values) >= least:
                found[end] = sum(values) / len(values)
        return found

    def names(self, *beginnings: str) -> list[str]:
        """Return the names of the curves that begin so."""
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        return [name for name in names if name.startswith(beginnings)]

    @property
    def rate(self) -> float:
        """The learning rate of the first step of which one was noted."""
        return next(iter(self.of("learning_rate").values()), 0)

    @property
    def last_step(self) -> int:
        """The last step of which something was noted."""
        return max(self.rows)

    def add(self, entries: Iterable[Entry]) -> "Curves":
        """Note entries in their order, and return the curves.

        Where the steps of a training go back, it was started again: what it noted after that step
        is dropped.
        """
        last = -1
        for step, total, values in entries:
            if "learning_rate" in values:
                if step < last:
                    self.rows = {s: row for s, row in self.rows.items() if s < step}
                last, self.total_steps = step, total
            self.rows.setdefault(step, {}).update(values)
        return self


def read_curves(path: Path) -> Curves:
    """Return the curves of a run.

    Args:
        path: of a session, of its ``curves.csv``, or of a log of the released code.

    Raises:
        InputError: it cannot be read, or holds no loss of a training.
    """
    path = path / FILE if path.is_dir() else path
    entries = entries_of_table(path) if path.suffix == ".csv" else entries_of_log(path)
    with decoding(path, WHERE):
        curves = Curves().add(entries)
        if not curves.names(LOSS):
            raise Damaged(f"no loss of a training; the released code printed {SAMPLE!r}")
    return curves


def entries_of_table(path: Path) -> Iterator[Entry]:
    """Yield the rows of a table, but for half a row, which a killed run leaves.

    Raises:
        Damaged: something is no number or step.
    """
    for row in read_table(path, WHERE, ("step", "total")):
        if row.get("learning_rate") == "":
            continue
        step, total = int(row.pop("step")), int(row.pop("total"))
        if not 0 <= step <= LARGEST_STEP:
            raise Damaged(f"{step} is no step")
        yield step, total, {name: float(text) for name, text in row.items() if text}


def entries_of_log(path: Path) -> Iterator[Entry]:
    """Yield the steps and validations in a log of the released code, and pass over other lines."""
    last = total = 0
    for line in read_text(regular(path, f"There is no file {path}. {WHERE}")).splitlines():
        if match := TRAINING_LINE.search(line):
            values = {name: float(text) for name, text in match.groupdict().items()}
            last, total = int(values.pop("step")), int(values.pop("total"))
            yield last, total, values
        elif match := VALIDATION.search(line):
            yield VALIDATED * round(last / VALIDATED) or last, total, {"miou": float(match[1])}


def read_recorded(name: str) -> Curves:
    """Return the curves of one of ``RECORDED``; the published ones of COCO have no validation."""
    return read_curves(next(FOLDER.glob(f"*_{name}.csv")))


def nearest(curves: Curves, names: Sequence[str]) -> str | None:
    """Return the recorded run, of these, of the same length and the nearest first rate, if any."""
    runs = {name: read_recorded(name) for name in names}
    alike = [name for name, run in runs.items() if run.total_steps == curves.total_steps]
    return min(alike, key=lambda name: abs(runs[name].rate - curves.rate), default=None)
