"""One account of a session's figures: what each is, and whether a published one stands beside it.

The report, the card, means over seeds and ``--check`` take every figure from here.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from log import curves
from log.curves import FOLDER, Curves, read_curves
from tool.errors import InputError
from tool.reader import Damaged, decoding, read_json, read_lines
from tool.results import counts_of, read_result

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
LABELS = ("crf", "irn", "labels")
SEGMENTATION = {"deeplabv2_resnet101": "seg", "deeplabv1_resnet38": "seg_v1"}  # by --model
NETWORKS = {"resnet101_deeplabv2": "seg", "resnet38_deeplabv1": "seg_v1"}  # in PUBLISHED
USUAL = ("cam", "pseudo_label", "crf_label", *(f"seg_{model}" for model in SEGMENTATION))
TEXTS = ("dataset?", "dataset_root?", "negative_class?", "device?")
SETTINGS = {str: {**dict.fromkeys(TEXTS, str), "versions?": {str: str}}}
REMEDY = "Delete it, and run the steps again."


@dataclass(frozen=True)
class Goal:
    """A published or recorded figure, in percent, and the pictures that it is measured on."""

    miou: float
    dataset: str
    list_name: str
    images: int

    def differs(self, result: dict[str, Any]) -> str:
        """Return how a result is not measured on the same pictures, or nothing."""
        ours = (result["dataset"], Path(result["list"]).stem, result["images"])
        theirs = (self.dataset, self.list_name, self.images)
        if ours == theirs:
            return ""
        ours_text, text = (f"{n} pictures of {name} of {data}" for data, name, n in (ours, theirs))
        return f"measured on {ours_text}; {self.miou:.4g} is of {text}"


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        kind: one of TITLES.
        name: the kind; of further ones of a kind, with their folder.
        title: for readers.
        miou: in percent, None where it is missing.
        goal: that stands beside it, None where there is none for what was measured.
        note: on the goal.
        result: the evaluation, None where it is missing.
    """

    kind: str
    name: str
    title: str
    miou: float | None
    goal: Goal | None
    note: str
    result: dict[str, Any] | None

    @property
    def beside(self) -> str:
        """What stands beside the figure, as text."""
        return f"{self.goal.miou:.4g}" if self.goal else ""


@dataclass
class Run:
    """A session, read; what is missing is empty.

    Attributes:
        path: of the session.
        settings: of every program that ran, by its name.
        results: of evaluations, by the names of their files without ``eval_`` and ending.
        plain: the evaluation of the maps of the classifier without GSC.
        seconds: of the steps of a run_*.sh.
        curves: of step 1.1.
        unread: a sentence on every file that cannot be read.
        classes: whose mean the figures are; None is all of them.
    """

    path: Path
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    plain: dict[str, Any] | None = None
    seconds: dict[str, int] = field(default_factory=dict)
    curves: Curves | None = None
    unread: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None

    def part(self, read: Callable[[Any], Any], source: Any) -> Any:
        """Return what ``read`` makes of a source; None, noted in ``unread``, of a damaged one."""
        try:
            return read(source)
        except InputError as error:
            self.unread.append(str(error))
            return None

    @property
    def dataset(self) -> str | None:
        """The name of the dataset that its programs read."""
        names = [result["dataset"] for result in self.results.values()]
        names += [s["dataset"] for s in self.settings.values() if s.get("dataset")]
        return names[0] if names else None

    @property
    def beside(self) -> str | None:
        """The name of the run to lay beside, one of ``log.curves.RECORDED``, or None."""
        if self.curves is None or self.dataset not in PUBLISHED["iterations"]:
            return None
        half = self.dataset == "voc" and self.curves.total_steps == curves.HALF_STEPS
        return next(iter(curves.OWN)) if half else f"{self.dataset}_repository_run"

    @property
    def origin(self) -> str:
        """What heads the column of goals: who the figures are from."""
        return "recorded" if self.beside in curves.OWN else "published"

    @property
    def scope(self) -> str:
        """Which classes the figures are means over, as a sentence; empty for all that occur."""
        return f"These are means over {', '.join(self.classes)}." if self.classes else ""

    def goal(self, kind: str) -> Goal | None:
        """Return what is published, or recorded at half size, of a kind of figure."""
        if self.origin == "recorded":
            return recorded(kind, self.classes)
        if self.classes or not self.dataset:
            return None
        return published(kind, self.dataset)

    def figures(self) -> list[Figure]:
        """Return the figures of all steps; those that every run has are there if missing too."""
        found: dict[str, list[dict[str, Any] | None]] = {kind: [] for kind in TITLES}
        for name in sorted(self.results, key=lambda name: (name not in USUAL, name)):
            found[kind_of(self.results[name])].append(self.results[name])
        maps = (self.plain, self.results.get("cam"))
        found["cam"] = [one for one in maps if one and "cam" in one][:1]
        found["cam_ipe"] = [self.plain] if self.plain else []
        if not found["crf"]:
            found["irn"] = found["irn"] or [None]
        for kind in ("cam", "is_cam", "seg"):
            found[kind] = found[kind] or [None]
        return [
            self._figure(kind, result, further=place > 0)
            for kind, results in found.items()
            for place, result in enumerate(results)
        ]

    def _figure(self, kind: str, result: dict[str, Any] | None, further: bool) -> Figure:
        name, title, goal, note = kind, TITLES[kind], self.goal(kind), ""
        if further or kind == "labels":
            folder = Path(result["source"]).name
            name, title = f"{kind} in {folder}", f"{title} in {folder}"
        if goal and result:
            note = goal.differs(result)
            if kind == "cam" and result is not self.plain:
                note = f"of the classifier with GSC; {goal.miou:.4g} is without it"
        if kind == "irn" and self.beside == "voc_repository_run":
            note = note or "users report 68 to 69"
        part = result["cam"] if result and kind == "cam" else result
        stands = None if result and note else goal
        return Figure(kind, name, title, self._mean(part), stands, note, result)

    def _mean(self, part: dict[str, Any] | None) -> float | None:
        """Return mIoU in percent, over the classes that are asked for and occur."""
        if part is None or self.classes is None:
            return part and 100 * part["miou"]
        iou = [part["iou"].get(name) for name in self.classes]
        iou = [100 * value for value in iou if value is not None]
        return float(np.mean(iou)) if iou else None


def kind_of(result: dict[str, Any]) -> str:
    """Return which of TITLES a result is, by the program that made what it judges."""
    settings = result["settings"]
    if result["program"] == "eval_cam":
        return "is_cam"
    if settings.get("program") == "make_seg_labels":
        return "crf" if settings.get("refine") == "crf" else "irn"
    if settings.get("program") == "infer_seg":
        return SEGMENTATION.get(str(settings.get("model")), "labels")
    return "labels"


def published(kind: str, dataset: str, run: str = "repository_run") -> Goal | None:
    """Return a published figure, that of one of the two runs where there are two; None without."""
    networks = PUBLISHED["segmentation"].get(dataset, {})
    figures = {NETWORKS[name]: lists["val"] for name, lists in networks.items()}
    judged = "val" if kind in figures else "train"
    figures["is_cam"] = PUBLISHED["localization_train"].get(dataset, {}).get(run)
    if dataset == "voc":
        figures |= PUBLISHED["ablation_voc_localization_train"]
        figures["crf"] = PUBLISHED["pseudo_label_voc_train"]["is_cam_dense_crf"]
    miou = figures.get(kind)
    return miou and Goal(miou, dataset, judged, PUBLISHED["pictures"][dataset][judged])


def recorded(kind: str, classes: Sequence[str] | None) -> Goal | None:
    """Return the mean of our runs at half size, over all classes or the seven; None without."""
    seven = classes is not None and set(classes) == set(OWN["seven"])
    rows = OWN["miou_seven" if seven else "miou"]
    if kind not in rows or (classes and not seven):
        return None
    judged = "val" if kind == "seg" else "train"
    return Goal(float(np.mean(rows[kind])), "voc", judged, OWN["pictures"][judged])


def read_run(session: Path, classes: Sequence[str] | None = None) -> Run:
    """Return what stands in a session's files.

    Args:
        session: folder of the run.
        classes: whose mean the figures are to be; None is all of them.

    Raises:
        InputError: an evaluation does not know one of the classes.
    """
    run = Run(session, classes=tuple(classes) if classes else None)
    run.settings = run.part(read_settings, session) or {}
    for path in sorted(session.glob("eval_*.json")):
        result = run.part(read_result, path)
        if result:
            run.results[path.stem.removeprefix("eval_")] = result
    if (session / "seconds.txt").exists():
        run.seconds = run.part(read_seconds, session / "seconds.txt") or {}
    if (session / PLAIN / "eval_cam.json").exists():
        run.plain = run.part(read_plain, session / PLAIN)
    if (session / curves.FILE).exists():
        run.curves = run.part(read_curves, session)
    for path in sorted(session.glob("*.log")) if run.curves is None else ():
        with suppress(InputError):  # most logs are no training's of the released code
            run.curves = read_curves(path)
    for name, result in run.results.items():
        unknown = [c for c in classes or () if c not in result["iou"]]
        if unknown:
            raise InputError(
                f"eval_{name}.json of {session} has no class '{unknown[0]}'. Give --classes "
                f"some of: {', '.join(result['iou'])}."
            )
    return run


def read_settings(session: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of the programs that ran, by their names; a damaged file is an error."""
    path = session / "args.json"
    return read_json(path, REMEDY, SETTINGS) if path.exists() else {}


def read_plain(session: Path) -> dict[str, Any]:
    """Return the result of the maps of a classifier without GSC; InputError: it was one with it."""
    weight = read_settings(session).get(TRAINER, {}).get("gsc_weight")
    if weight != 0:
        raise InputError(f"{session} was trained with --gsc_weight {weight}, so it is not plain.")
    return read_result(session / "eval_cam.json")


def read_seconds(path: Path) -> dict[str, int]:
    """Return the seconds of every step of a run_*.sh, by its name."""
    seconds = {}
    with decoding(path, "Delete it."):
        for line in read_lines(path):
            name, _, number = line.rpartition(" ")
            if not (name and number.isdecimal() and len(number) < 10):
                raise Damaged(f"{line[:40]!r} is no name and seconds")
            seconds[name] = int(number)
    return seconds


def mistakes(result: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return (true, predicted, share of the true class's pixels) of the ten largest mistakes."""
    counts = counts_of(result)[:, :-1].astype(float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    names = list(result["iou"])
    order = np.argsort(shares, axis=None)[::-1][:10]
    pairs = [divmod(int(i), len(names)) for i in order]
    return [(names[t], names[p], float(shares[t, p])) for t, p in pairs if shares[t, p] > 0]
