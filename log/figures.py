"""One account of a session's figures: what each is, and whether a published one stands beside it.

The report, the card, means over seeds and ``--check`` take every figure from here.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from log import curves
from log.curves import FOLDER, read_curves
from tool.errors import InputError
from tool.results import counts_of, read_result, read_seconds
from tool.session import read_settings

Result = dict[str, Any]  # of an evaluation, see tool.results
RESULTS = json.loads((FOLDER / "results.json").read_text())  # published ones, and ours
OVER = {(): "figures", tuple(sorted(RESULTS["seven"])): "figures_of_the_seven"}  # such classes
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
MADE = {  # the kind of what was made with a --refine or --model
    "crf": "crf",
    "irn": "irn",
    "deeplabv2_resnet101": "seg",
    "deeplabv1_resnet38": "seg_v1",
}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return in words what is not as expected; nothing where all is."""
    pairs = ((name, found.get(name, "unknown"), value) for name, value in expected.items())
    return "; ".join(f"{name} {one}, not {other}" for name, one, other in pairs if one != other)


class Figure(NamedTuple):
    """A row of the table."""

    name: str  # the kind, one of TITLES, and the folder where there are several
    title: str  # likewise, for readers
    miou: float | None  # in percent
    goals: list[float]  # published or recorded, in percent, that may stand beside it
    note: str  # why none may
    result: Result | None  # the evaluation, None where it is missing

    @property
    def beside(self) -> str:
        """What stands beside the figure, as text."""
        return in_words(self.goals)


def in_words(mious: Sequence[float]) -> str:
    """Return one or several figures as text."""
    return " to ".join(f"{miou:.4g}" for miou in mious)


class Run:
    """A session, read; what is missing is empty.

    Args:
        path: folder of the session.
        classes: whose mean the figures are to be; None is all of them.

    Attributes:
        unread: a sentence on every file that cannot be read.
        settings: of every program that ran, by its name.
        seconds: of the steps of a run_*.sh.
        curves: of step 1.1.
        results: of evaluations, by the names of their files without ``eval_`` and ending; PLAIN is
            that of the maps of the classifier without GSC.
        dataset: the name of the one that its programs read.
        beside: the recorded run to lay beside: one of the dataset, and of the length if there is
            one.
    """

    def __init__(self, path: Path, classes: Sequence[str] | None = None) -> None:
        self.path, self.classes, self.unread = path, classes, []
        self.settings = self.part(read_settings, path / "args.json") or {}
        self.seconds = self.part(read_seconds, path / "seconds.txt") or {}
        self.curves = self.part(read_curves, path / curves.FILE)
        found = {}
        for file in sorted(path.glob("eval_*.json")):
            found[file.stem.removeprefix("eval_")] = self.part(read_result, file)
        found[PLAIN] = self.part(read_plain, path / PLAIN / "eval_cam.json")
        self.results = {name: result for name, result in found.items() if result}
        self.dataset = self.noted("dataset")
        names = [name for name in curves.RECORDED if name.startswith(f"{self.dataset}_")]
        alike = curves.nearest(self.curves or curves.Curves(), names)
        self.beside = alike or next(iter(names), None)

    def part(self, read: Callable[[Path], Any], path: Path) -> Any:
        """Return what ``read`` makes of a file or folder; None of a missing or damaged one.

        The latter is noted in ``unread``.
        """
        try:
            return read(path) if os.path.lexists(path) else None
        except InputError as error:
            self.unread.append(str(error))
            return None

    def noted(self, name: str) -> Any:
        """Return the first value of a name in the settings of the programs, if there is one."""
        return next((s[name] for s in self.settings.values() if s.get(name)), None)

    @property
    def origin(self) -> str:
        """What heads the column of goals: who they are from; nothing where there are none."""
        if self.beside is None:
            return ""
        return "recorded" if self.beside in curves.OWN else "published"

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of all steps; those that every run has are there if missing too.

        Raises:
            InputError: an evaluation does not know one of the classes.
        """
        kinds = {kind: [] for kind in TITLES}
        for name, result in self.results.items():
            kinds[kind_of(name, result)].append(result)
        maps = self.results.get(PLAIN) or self.results.get("cam", {})
        if "cam" in maps:
            kinds["cam"].append(maps | maps["cam"])
        labels = "crf" if kinds["crf"] else "irn"
        for kind in ("cam", "is_cam", labels, "seg"):
            kinds[kind] = kinds[kind] or [None]
        for kind, results in kinds.items():
            for result in results:
                alone = len(results) == 1 and kind != "labels"
                where = "" if alone else f" in {Path(result['source']).name}"
                goals, note = self.goals_of(kind, result)
                miou = self._mean(result)
                yield Figure(kind + where, TITLES[kind] + where, miou, goals, note, result)

    def goals_of(self, kind: str, result: Result | None) -> tuple[list[float], str]:
        """Return what is published of a kind of figure, or the mean of our runs at half size.

        It is one figure, several or none, in percent. Beside figures over some classes stands none,
        but for our seven, and beside a result only one of the same list; the text says why there is
        none.
        """
        dataset = str(self.beside).partition("_")[0]
        group = str(self.beside).rpartition("_")[0] if self.beside in curves.OWN else dataset
        over = OVER.get(tuple(sorted(self.classes or ())))
        table = RESULTS.get(over, {}).get(kind, {})
        goals = table.get(self.beside) or table.get(group, [])
        if not (goals and result):
            return goals, ""
        judged = "val" if kind.startswith("seg") else "train"
        of = {"dataset": dataset, "list": judged, "images": RESULTS["pictures"][group][judged]}
        found = {name: result[name] for name in of} | {"list": Path(result["list"]).stem}
        other = differences(of, found)
        if kind == "cam" and PLAIN not in self.results:
            other = "the classifier without GSC"
        return ([], f"{in_words(goals)} is of {other}") if other else (goals, "")

    def _mean(self, result: Result | None) -> float | None:
        """Return mIoU in percent, over the classes that are asked for and occur."""
        if not (result and self.classes):
            return 100 * result["miou"] if result else None
        unknown = [name for name in self.classes if name not in result["iou"]]
        if unknown:
            where = f"the evaluation of {result['source']} has no class '{unknown[0]}'"
            raise InputError(f"--classes: {where}. Give some of: {', '.join(result['iou'])}.")
        iou = [result["iou"][name] for name in self.classes]
        iou = [100 * value for value in iou if value is not None]
        return float(np.mean(iou)) if iou else None


def kind_of(name: str, result: Result) -> str:
    """Return which of TITLES a result of a name is, by what made that which it judges."""
    if result["program"] == "eval_cam":
        return "cam_ipe" if name == PLAIN else "is_cam"
    settings = result["settings"]
    return MADE.get(str(settings.get("refine") or settings.get("model")), "labels")


def read_plain(path: Path) -> Result:
    """Return the result of the maps of a classifier without GSC; InputError: it was one with it."""
    settings = read_settings(path.with_name("args.json")).get(TRAINER, {})
    if settings.get("gsc_weight") != 0:
        raise InputError(f"{path.parent} was not trained with --gsc_weight 0, so it is not plain.")
    return read_result(path)


def mistakes(result: Result) -> list[tuple[float, str, str]]:
    """Return (share of the true class's pixels, true, predicted) of the ten largest mistakes."""
    counts = counts_of(result)[:, :-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = list(result["iou"])
    np.fill_diagonal(counts, 0)
    rows = [(shares[t, p], names[t], names[p]) for t, p in np.argwhere(counts)]
    return sorted(rows, reverse=True)[:10]
