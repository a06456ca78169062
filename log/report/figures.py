"""What stands in a session's files: figures of every step, curves, settings, times."""

import csv
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from log import compare
from tool.files import read_json

PUBLISHED = json.loads((compare.FOLDER / "published_results.json").read_text())
PLAIN = "cam_only"  # session of the classifier without GSC, within a session
SEGMENTATION = ("seg_deeplabv2_resnet101", "seg_deeplabv1_resnet38")


@dataclass(frozen=True)
class Stage:
    """A line of the table: a figure of ours in percent, None where it is missing, and a goal."""

    name: str
    title: str
    miou: float | None
    published: float | None
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
        published: name of the published run to lay beside, or None.
    """

    path: Path
    settings: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]
    seconds: dict[str, int] = field(default_factory=dict)
    curves: compare.Curves | None = None
    published: str | None = None

    @property
    def dataset(self) -> str | None:
        """The name of the dataset that its programs read."""
        names = [s["dataset"] for s in self.settings.values() if s.get("dataset")]
        return names[0] if names else None

    def stages(self) -> list[Stage]:
        """Return the figures of all steps, missing ones too."""
        voc, coco = self.dataset == "voc", self.dataset == "coco"
        local = PUBLISHED["localization_train"].get(self.dataset or "", {}).get("repository_run")
        pseudo = PUBLISHED["pseudo_label_voc_train"]
        steps = PUBLISHED["ablation_voc_localization_train"] if voc else {}
        maps, plain = self.results.get("cam", {}), self.results.get("plain", {})
        cam = plain.get("cam") or maps.get("cam")
        found = [_stage("cam", "CAM, best threshold", cam, steps.get("cam"))]
        if plain:
            found.append(_stage("cam_ipe", "CAM + IPE, without GSC", plain, steps.get("cam_ipe")))
        found.append(_stage("is_cam", "IS-CAM", maps or None, local))
        for name in ("crf_label", "pseudo_label"):
            result = self.results.get(name)
            by_crf = (result or {}).get("settings", {}).get("refine") == "crf"
            if result is None and name == "crf_label":
                continue
            goal = (pseudo["is_cam_dense_crf"] if by_crf else None) if voc else None
            title = "labels by the CRF" if by_crf else "labels by IRN and walk"
            note = "users report 68 to 69" if voc and not by_crf else ""
            found.append(_stage("crf" if by_crf else "irn", title, result, goal, note))
        for name in SEGMENTATION:
            result = self.results.get(name)
            if result is None and name != SEGMENTATION[0]:
                continue
            model, network = name.split("_")[1:]
            goals = PUBLISHED["segmentation"].get(self.dataset or "", {})
            goal = goals.get(f"{network}_{model}", {}).get("val") if voc or coco else None
            found.append(_stage("seg", f"segmentation, {model}", result, goal))
        return found


def _stage(name: str, title: str, result: dict | None, published: float | None, note="") -> Stage:
    miou = (result or {}).get("miou")
    return Stage(name, title, None if miou is None else 100 * miou, published, note)


def read_run(session: Path) -> Run:
    """Return what stands in a session's files; what is missing is missing there too.

    Raises:
        InputError: a file is no JSON.
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
    if run.curves and run.dataset in ("voc", "coco"):
        run.published = f"{run.dataset}_repository_run"
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
