"""What stands in a session's files: figures of every step, curves, settings, times."""

import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from log import compare
from tool.errors import InputError
from tool.files import read_json

PUBLISHED = json.loads((compare.FOLDER / "published_results.json").read_text())
OWN = json.loads((compare.FOLDER / "own_voc_half_results.json").read_text())
PLAIN = "cam_only"  # session of the classifier without GSC, within a session
SEGMENTATION = ("seg_deeplabv2_resnet101", "seg_deeplabv1_resnet38")


@dataclass(frozen=True)
class Stage:
    """A line of the table: a figure of ours in percent, None where it is missing, and a goal.

    The goal is the published figure or, at half size, the mean that log/README.md records.
    """

    name: str
    title: str
    miou: float | None
    goal: float | None
    note: str = ""


@dataclass
class Run:
    """A session, read.

    Attributes:
        path: of the session.
        settings: of every program that ran, by its name.
        results: evaluation files, by their names without ``eval_`` and ending.
        seconds: of the steps of a run_*.sh.
        curves: of the log of step 1.1, or None.
        beside: name of the run to lay beside, one of ``log.compare.BESIDE``, or None.
        classes: whose mean the figures are; None is all of them.
    """

    path: Path
    settings: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]
    seconds: dict[str, int] = field(default_factory=dict)
    curves: compare.Curves | None = None
    beside: str | None = None
    classes: tuple[str, ...] | None = None

    @property
    def dataset(self) -> str | None:
        """The name of the dataset that its programs read."""
        names = [s["dataset"] for s in self.settings.values() if s.get("dataset")]
        return names[0] if names else None

    @property
    def origin(self) -> str:
        """What heads the column of goals: who the figures are from."""
        return "recorded" if self.beside in compare.OWN else "published"

    @property
    def scope(self) -> str:
        """Which classes the figures are means over, as a sentence; empty for all that occur."""
        return f"These are means over {', '.join(self.classes)}." if self.classes else ""

    def goals(self) -> dict[str, float]:
        """Return what to expect of the stages, by name; that of ``seg`` is DeepLab v2's."""
        if self.origin == "recorded" and set(self.classes or OWN["seven"]) == set(OWN["seven"]):
            rows = OWN["miou_seven" if self.classes else "miou"]
            return {name: float(np.mean(seeds)) for name, seeds in rows.items()}
        if self.classes or not self.dataset:
            return {}
        goals = {}
        if self.dataset in PUBLISHED["localization_train"]:
            goals["is_cam"] = PUBLISHED["localization_train"][self.dataset]["repository_run"]
            for name, lists in PUBLISHED["segmentation"][self.dataset].items():
                goals["seg" if name.endswith("v2") else "seg_v1"] = lists["val"]
        if self.dataset == "voc":
            steps = PUBLISHED["ablation_voc_localization_train"]
            goals |= {name: steps[name] for name in ("cam", "cam_ipe")}
            goals["crf"] = PUBLISHED["pseudo_label_voc_train"]["is_cam_dense_crf"]
        return goals

    def stages(self) -> list[Stage]:
        """Return the figures of all steps, missing ones too."""
        maps, plain = self.results.get("cam", {}), self.results.get("plain", {})
        found = [("cam", "CAM, best threshold", plain.get("cam") or maps.get("cam"), "")]
        if plain:
            found.append(("cam_ipe", "CAM + IPE, without GSC", plain, ""))
        found.append(("is_cam", "IS-CAM", maps, ""))
        for name in ("crf_label", "pseudo_label"):
            result = self.results.get(name)
            if result is None and name == "crf_label":
                continue
            if (result or {}).get("settings", {}).get("refine") == "crf":
                found.append(("crf", "labels by the CRF", result, ""))
            else:
                full = self.dataset == "voc" and self.origin == "published"
                note = "users report 68 to 69" if full else ""
                found.append(("irn", "labels by IRN and walk", result, note))
        for name, stage in zip(SEGMENTATION, ("seg", "seg_v1"), strict=True):
            result = self.results.get(name)
            if result is not None or stage == "seg":
                found.append((stage, f"segmentation, {name.split('_')[1]}", result, ""))
        goals = self.goals()
        return [
            Stage(name, title, self._mean(result), goals.get(name), note)
            for name, title, result, note in found
        ]

    def _mean(self, result: dict[str, Any] | None) -> float | None:
        """Return mIoU in percent, over the classes that are asked for and have one."""
        if not result:
            return None
        if self.classes is None:
            return 100 * result["miou"] if result.get("miou") is not None else None
        iou = [result["iou"].get(name) for name in self.classes if "iou" in result]
        iou = [100 * value for value in iou if value is not None]
        return float(np.mean(iou)) if iou else None


def read_run(session: Path, classes: Sequence[str] | None = None) -> Run:
    """Return what stands in a session's files; what is missing is missing there too.

    Args:
        session: folder of the run.
        classes: whose mean the figures are to be; None is all of them.

    Raises:
        InputError: a file is no JSON, or does not know a class.
    """
    mend = "Delete it, and run its step again."
    args = session / "args.json"
    run = Run(session, read_json(args, mend) if args.exists() else {}, {})
    for path in sorted(session.glob("eval_*.json")):
        run.results[path.stem.removeprefix("eval_")] = read_json(path, mend)
    times = session / "seconds.txt"
    lines = times.read_text().splitlines() if times.exists() else []
    run.seconds = {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2}
    plain = session / PLAIN / "eval_cam.json"
    if plain.exists():
        run.results["plain"] = read_json(plain, mend)
    for log in sorted(session.glob("*.log")):  # one, of the session's first name
        with suppress(ValueError):
            run.curves = compare.read_log(log)
    if classes:
        run.classes = tuple(classes)
        for name, result in run.results.items():
            unknown = [c for c in classes if c not in result.get("iou", {})]
            if unknown:
                known = ", ".join(result.get("iou", {}))
                raise InputError(
                    f"eval_{name}.json of {session} has no class '{unknown[0]}'. Give --classes "
                    f"some of: {known}."
                )
    if run.curves and run.dataset in ("voc", "coco"):
        half = run.dataset == "voc" and run.curves.total_steps == compare.HALF_STEPS
        run.beside = next(iter(compare.OWN)) if half else f"{run.dataset}_repository_run"
    return run


def read_pictures(session: Path, name: str) -> dict[str, float]:
    """Return id -> mIoU of the picture, from the table of an evaluation; empty without one."""
    path = session / f"eval_{name}.csv"
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: float(row["miou"]) for row in csv.DictReader(file) if row["miou"]}


def confusions(result: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return (true, predicted, share of the true class's pixels) of the largest mistakes."""
    if "confusion" not in result:
        return []
    counts = np.array([row.split() for row in result["confusion"]], float)[:, :-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    names = list(result["iou"])
    order = np.argsort(shares, axis=None)[::-1][:10]
    pairs = [divmod(int(i), len(names)) for i in order]
    return [(names[t], names[p], float(shares[t, p])) for t, p in pairs if shares[t, p] > 0]
