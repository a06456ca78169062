"""One account of a session's figures: what each is, and whether a published one stands beside it.

The report, the card, means over seeds and ``--check`` take every figure from here.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from log import curves
from log.curves import FOLDER, Curves, read_curves
from tool.errors import InputError
from tool.reader import read_json
from tool.results import counts_of, read_result, read_seconds

PUBLISHED = json.loads((FOLDER / "published_results.json").read_text())
OWN = json.loads((FOLDER / "own_voc_half_results.json").read_text())
PLAIN = "cam_only"  # session of the classifier without GSC, within a session
TRAINER = "train_resnet50_SIPE"
TITLES = {  # of every kind of figure, in the order of the steps
    "cam": "CAM, best threshold",
    "cam_ipe": "CAM + IPE, without GSC",
    "is_cam": "IS-CAM",
    "crf": "labels by the CRF",
    "irn": "labels by IRN and walk",
    "labels": "labels",
    "seg": "segmentation, deeplabv2",
    "seg_v1": "segmentation, deeplabv1",
}
SEGMENTATION = ("seg", "seg_v1")  # measured on val, the others on train
MADE = {  # the kind of what a program made by its choice of --refine or --model
    "make_seg_labels crf": "crf",
    "make_seg_labels irn": "irn",
    "infer_seg deeplabv2_resnet101": "seg",
    "infer_seg deeplabv1_resnet38": "seg_v1",
}
FIRST = ("pseudo_label", "crf_label", "seg_deeplabv2_resnet101", "seg_deeplabv1_resnet38")
ABOUT = ("dataset", "list", "images")  # decide whether two figures can be compared
TEXTS = ("dataset?", "dataset_root?", "negative_class?", "device?")
SETTINGS = {str: {**dict.fromkeys(TEXTS, str), "versions?": {str: str}}}
REMEDY = "Delete it, and run the steps again."


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return in words what is not as expected; nothing where all is."""
    values = {name: found.get(name, "unknown") for name in expected}
    other = [name for name in expected if values[name] != expected[name]]
    return "; ".join(f"{name} {values[name]}, not {expected[name]}" for name in other)


def about(result: dict[str, Any]) -> dict[str, Any]:
    """Return what of a result decides whether another figure can stand beside it."""
    return {name: result[name] for name in ABOUT} | {"list": Path(result["list"]).stem}


@dataclass(frozen=True)
class Goal:
    """A published or recorded figure, in percent: of one or of several; and what it is about."""

    mious: list[float]
    about: dict[str, Any]

    def __str__(self) -> str:
        return " to ".join(f"{miou:.4g}" for miou in self.mious)


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        kind: one of TITLES.
        folder: of what is measured, where that is not the first one of its kind.
        miou: in percent, None where it is missing.
        goal: that may stand beside it, or None.
        note: why the goal is of something else, or nothing.
        result: the evaluation, None where it is missing.
    """

    kind: str
    folder: str
    miou: float | None
    goal: Goal | None
    note: str
    result: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The kind, and the folder of a further one."""
        return f"{self.kind} in {self.folder}" if self.folder else self.kind

    @property
    def title(self) -> str:
        """The name for readers."""
        return TITLES[self.kind] + self.name.removeprefix(self.kind)

    @property
    def beside(self) -> str:
        """What stands beside the figure, as text."""
        return str(self.goal) if self.goal and not self.note else ""


@dataclass
class Run:
    """A session, read; what is missing is empty.

    Attributes:
        path: of the session.
        classes: whose mean the figures are; None is all of them.
        settings: of every program that ran, by its name.
        results: of evaluations, by the names of their files without ``eval_`` and ending.
        plain: the evaluation of the maps of the classifier without GSC.
        seconds: of the steps of a run_*.sh.
        curves: of step 1.1.
        unread: a sentence on every file that cannot be read.
    """

    path: Path
    classes: tuple[str, ...] | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    plain: dict[str, Any] | None = None
    seconds: dict[str, int] = field(default_factory=dict)
    curves: Curves | None = None
    unread: list[str] = field(default_factory=list)

    def part(self, read: Callable[[Path], Any], path: Path) -> Any:
        """Return what ``read`` makes of a file or folder; None of a missing or damaged one.

        The latter is noted in ``unread``.
        """
        try:
            return read(path) if os.path.lexists(path) else None
        except InputError as error:
            self.unread.append(str(error))
            return None

    @property
    def dataset(self) -> str | None:
        """The name of the dataset that its programs read."""
        about = [*self.results.values(), *self.settings.values()]
        return next((one["dataset"] for one in about if one.get("dataset")), None)

    @property
    def beside(self) -> str | None:
        """The recorded run to lay beside: one of the dataset, and of the length if there is one."""
        if self.dataset not in PUBLISHED["pictures"]:
            return None
        names = curves.alike(self.curves) if self.curves else []
        names = [name for name in names if name.startswith(self.dataset)]
        return next(iter(names), f"{self.dataset}_repository_run")

    @property
    def origin(self) -> str:
        """What heads the column of goals: who the figures are from."""
        return "recorded" if self.beside in curves.OWN else "published"

    @property
    def scope(self) -> str:
        """Which classes the figures are means over, as a sentence; empty for all that occur."""
        return f"These are means over {', '.join(self.classes)}." if self.classes else ""

    def figures(self, beside: str | None = None) -> list[Figure]:
        """Return the figures of all steps; those that every run has are there if missing too.

        Args:
            beside: the recorded run whose figures are the goals; None is that of the property.
        """
        names = sorted(self.results, key=lambda name: (name not in FIRST, name))
        found = [(kind_of(self.results[name]), self.results[name]) for name in names]
        maps = [one for one in (self.plain, self.results.get("cam")) if one and "cam" in one]
        found += [("cam", one) for one in maps[:1]]
        found += [("cam_ipe", self.plain)] if self.plain else []
        kinds = {kind for kind, _ in found}
        expected = ("cam", "is_cam", "seg") if "crf" in kinds else ("cam", "is_cam", "irn", "seg")
        found += [(kind, None) for kind in expected if kind not in kinds]
        rows: list[Figure] = []
        for kind, result in sorted(found, key=lambda row: list(TITLES).index(row[0])):
            further = kind == "labels" or kind in {row.kind for row in rows}
            folder = Path(result["source"]).name if further else ""
            goal = goal_of(kind, beside or self.beside, self.classes)
            note = self._note(kind, result, goal) if goal and result else ""
            rows.append(Figure(kind, folder, self._mean(kind, result), goal, note, result))
        return rows

    def _note(self, kind: str, result: dict[str, Any], goal: Goal) -> str:
        if kind == "cam" and result is not self.plain:
            return f"of the classifier with GSC; {goal} is without it"
        other = differences(goal.about, about(result))
        return other and f"{goal} is of {other}"

    def _mean(self, kind: str, result: dict[str, Any] | None) -> float | None:
        """Return mIoU in percent, over the classes that are asked for and occur."""
        if result is None:
            return None
        part = result["cam"] if kind == "cam" else result
        if self.classes is None:
            return 100 * part["miou"]
        iou = [part["iou"].get(name) for name in self.classes]
        iou = [100 * value for value in iou if value is not None]
        return float(np.mean(iou)) if iou else None


def kind_of(result: dict[str, Any]) -> str:
    """Return which of TITLES a result is, by the program that made what it judges."""
    if result["program"] == "eval_cam":
        return "is_cam"
    settings = result["settings"]
    choice = settings.get("refine") or settings.get("model")
    return MADE.get(f"{settings.get('program')} {choice}", "labels")


def goal_of(kind: str, beside: str | None, classes: Sequence[str] | None = None) -> Goal | None:
    """Return what is published of a kind of figure, or the mean of our runs at half size.

    Args:
        kind: one of TITLES.
        beside: one of ``log.curves.RECORDED``; None has no goals.
        classes: whose mean it is to be; of some, only the mean over our seven is recorded.
    """
    if beside is None:
        return None
    dataset = beside.partition("_")[0]
    judged = "val" if kind in SEGMENTATION else "train"
    pictures = PUBLISHED["pictures"][dataset]
    table = PUBLISHED["figures"].get(kind, {}) if not classes else {}
    mious = table.get(beside) or table.get(dataset, [])
    if beside in curves.OWN:
        seven = set(classes or ()) == set(OWN["seven"])
        table = OWN["miou_seven" if seven else "miou"] if seven or not classes else {}
        mious = [float(np.mean(table[kind]))] if kind in table else []
        pictures = OWN["pictures"]
    of = {"dataset": dataset, "list": judged, "images": pictures[judged]}
    return Goal(mious, of) if mious else None


def read_run(session: Path, classes: Sequence[str] | None = None) -> Run:
    """Return what stands in a session's files.

    Args:
        session: folder of the run.
        classes: whose mean the figures are to be; None is all of them.

    Raises:
        InputError: an evaluation does not know one of the classes.
    """
    run = Run(session, tuple(classes) if classes else None)
    run.settings = run.part(read_settings, session / "args.json") or {}
    run.seconds = run.part(read_seconds, session / "seconds.txt") or {}
    run.curves = run.part(read_curves, session / curves.FILE)
    run.plain = run.part(read_plain, session / PLAIN / "eval_cam.json")
    for path in sorted(session.glob("eval_*.json")):
        if result := run.part(read_result, path):
            run.results[path.stem.removeprefix("eval_")] = result
            unknown = [name for name in classes or () if name not in result["iou"]]
            if unknown:
                known = ", ".join(result["iou"])
                raise InputError(
                    f"{path} has no class '{unknown[0]}'. Give --classes some of: {known}."
                )
    return run


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Return the settings in an ``args.json``, by the names of the programs that ran."""
    return read_json(path, REMEDY, SETTINGS)


def read_plain(path: Path) -> dict[str, Any]:
    """Return the result of the maps of a classifier without GSC; InputError: it was one with it."""
    settings = read_settings(path.with_name("args.json")).get(TRAINER, {})
    if settings.get("gsc_weight") != 0:
        raise InputError(f"{path.parent} was not trained with --gsc_weight 0, so it is not plain.")
    return read_result(path)


def mistakes(result: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return (true, predicted, share of the true class's pixels) of the ten largest mistakes."""
    counts = counts_of(result)[:, :-1].astype(float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    names = list(result["iou"])
    order = [divmod(int(place), len(names)) for place in np.argsort(shares, axis=None)[::-1][:10]]
    return [(names[t], names[p], float(shares[t, p])) for t, p in order if shares[t, p] > 0]
