"""Does a run follow the published one? Stage by stage, with the tolerances of tolerances.json.

``python log/compare.py RUN --check`` prints what :func:`check` returns.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from log.curves import FOLDER, Curves, alike, read_recorded
from log.curves import PUBLISHED as RUNS
from log.figures import PUBLISHED, TRAINER, Figure, differences, read_run

TOLERANCES = json.loads((FOLDER / "tolerances.json").read_text())
STAGES = {"is_cam": "is_cam", "crf": "labels", "irn": "labels"}  # of figures
STAGES |= {"seg": "segmentation", "seg_v1": "segmentation"}
LEAST_STEPS = 100  # before these, one batch decides the figures
LEAST_ROWS = 6  # of a mean
ROUNDING = 5e-5  # of rates in the released code's logs, which have four digits
FOLLOWS, LEAVES, UNKNOWN = "ok", "LEAVES", "-"


@dataclass(frozen=True)
class Finding:
    """A line of the report: how a stage looks, what it is called, and figures of both runs.

    Where a finding is needed and unknown, nothing can be told of the run.
    """

    verdict: str
    stage: str
    text: str
    needed: bool = False

    def __str__(self) -> str:
        return f"{self.verdict:6}  {self.stage:14} {self.text}"


def check(path: Path, ours: Curves, against: str | None) -> tuple[str, int]:
    """Return the text of a check and its exit status: 0 follows, 1 leaves, 2 cannot be told.

    Args:
        path: of the run; its session is that folder, or the one it lies in.
        ours: its curves.
        against: the published run; None is the one of the same length and the nearest first rate.
    """
    first = next(iter(ours.of("learning_rate").values()), 0)
    names = [name for name in alike(ours) if name in RUNS]
    rates = {name: read_recorded(name).of("learning_rate")[0] for name in names}
    name = against or min(names, key=lambda name: abs(rates[name] - first), default=None)
    if name is None:
        lengths = {run.total_steps: name.split("_")[0] for name, run in RUNS.items()}
        known = ", ".join(f"{steps} ({dataset})" for steps, dataset in lengths.items())
        why = f"it is set to {ours.total_steps} steps, and the published ones made {known}"
        return f"It cannot be told whether the run follows: {why}.", 2
    findings = list(examine(path if path.is_dir() else path.parent, ours, name))
    text, status = conclusion(findings, ours)
    return "\n".join([f"{path} beside {name}", *map(str, findings), "", text]), status


def conclusion(findings: list[Finding], ours: Curves) -> tuple[str, int]:
    """Return what findings mean together, and the exit status."""
    for finding in findings:
        if finding.verdict == LEAVES:
            causes = "".join(f"\n  * {cause}" for cause in TOLERANCES[finding.stage]["causes"])
            where = f"in its {finding.stage}: {finding.text}"
            text = f"The run first leaves the published one {where}."
            return f"{text}\nWhat usually causes that:{causes}", 1
    unknown = [f"{f.stage} ({f.text})" for f in findings if f.verdict == UNKNOWN and f.needed]
    if unknown:
        return f"It cannot be told whether the run follows: {'; '.join(unknown[:2])}.", 2
    done = ours.last_step + 10 >= ours.total_steps
    return f"The run follows the published one{'' if done else ' so far'}.", 0


def examine(session: Path, ours: Curves, name: str) -> Iterator[Finding]:
    """Yield a finding for every stage of a run, in the order in which they are run.

    Args:
        session: folder of the run.
        ours: its curves.
        name: of the published run.
    """
    run, theirs = read_run(session), read_recorded(name)
    dataset, settings = name.split("_")[0], run.settings.get(TRAINER, {})
    yield from (Finding(UNKNOWN, "files", text, needed=True) for text in run.unread)
    yield _settings(settings, {"dataset": dataset, "lr": theirs.of("learning_rate")[0]})
    yield _list(settings, ours.total_steps, theirs.total_steps, *PUBLISHED["trained_on"][dataset])
    yield _weights(settings)
    yield from _curves(ours, theirs, RUNS[name].spacing)
    yield _validation(ours, theirs, str(settings.get("val_list") or "train"))
    for figure in run.figures(name):
        if figure.kind in STAGES and not figure.folder:
            yield _figure(figure, STAGES[figure.kind])


def _settings(settings: dict[str, Any], of_run: dict[str, Any]) -> Finding:
    if not settings:
        return Finding(UNKNOWN, "settings", "no args.json beside the run tells them")
    expected = TOLERANCES["settings"]["expected"] | of_run
    other = differences(settings, {key: expected[key] for key in expected if key in settings})
    unknown = differences(settings, expected)
    verdict = LEAVES if other else UNKNOWN if unknown else FOLLOWS
    return Finding(verdict, "settings", other or unknown or "as published", needed=True)


def _list(settings: dict[str, Any], ours: int, theirs: int, name: str, pictures: int) -> Finding:
    text = f"{ours} steps, published {theirs} ({pictures} pictures, 5 epochs of 16)"
    given = str(settings.get("train_list") or name)
    if Path(given).stem != name:
        return Finding(LEAVES, "list", f"train_list {given}, not {name}; {text}")
    return Finding(FOLLOWS if ours == theirs else LEAVES, "list", text)


def _weights(settings: dict[str, Any]) -> Finding:
    if "pretrained" not in settings:
        return Finding(UNKNOWN, "weights", "no args.json says what the training began from")
    source = str(settings["pretrained"] or "imagenet")  # what VOC and COCO start from
    known = {"imagenet": FOLLOWS, "none": LEAVES}
    return Finding(known.get(source, UNKNOWN), "weights", f"{source}, published: imagenet")


def _curves(ours: Curves, theirs: Curves, spacing: int) -> Iterator[Finding]:
    last = ours.last_step
    if last < LEAST_STEPS:
        text = f"{last} steps are too few: {LEAST_STEPS} are needed"
        yield Finding(UNKNOWN, "losses", text, needed=True)
        return
    rates, other = ours.of("learning_rate"), theirs.of("learning_rate")
    rows = [(step, rates[step], other[step]) for step in rates if step in other]
    yield _first("learning_rate", rows, ROUNDING)
    ends = [LEAST_STEPS, *range(spacing, last, spacing), last]
    for name in ("loss_cls", "loss_gsc"):
        rows = []
        for after, until in pairwise(ends):
            values = [run.window(name, after, until) for run in (ours, theirs)]
            if min(map(len, values)) >= LEAST_ROWS:
                rows.append((until, *map(np.mean, values)))
        yield _first(name, rows)


def _first(name: str, rows: list[tuple], rounding: float = 0) -> Finding:
    """Return where a curve first leaves the published one, or how far it is at most.

    Args:
        name: of the curve.
        rows: step, our value, and the published one.
        rounding: that the published values have.
    """
    tolerance = TOLERANCES[name]["tolerance"]
    if not rows:
        return Finding(UNKNOWN, name, "too few steps are in both runs", needed=True)
    steps, ours, theirs = np.array(rows, float).T
    off = abs(ours - theirs)
    left = ~(off <= tolerance * abs(theirs) + rounding)  # NaN leaves
    allowed = f"tolerance {100 * tolerance:.0f} %"
    if left.any():
        at = left.argmax()
        text = f"at step {steps[at]:.0f}: {ours[at]:.4f}, published {theirs[at]:.4f}, {allowed}"
        return Finding(LEAVES, name, text)
    share = off / np.maximum(abs(theirs), 1e-12)
    most = f"at most {100 * share.max():.1f} % off (step {steps[share.argmax()]:.0f})"
    return Finding(FOLLOWS, name, f"to step {steps[-1]:.0f}, {most}, {allowed}")


def _validation(ours: Curves, theirs: Curves, judged: str) -> Finding:
    tolerance = TOLERANCES["validation"]["tolerance"]
    if Path(judged).stem != "train":
        return Finding(UNKNOWN, "validation", f"on {judged}; the published run has train")
    one, other = ours.of("miou"), theirs.of("miou")
    off = {step: 100 * (one[step] - other[step]) for step in one if step in other}
    if not off:
        why = "none of the published steps" if other else "the published run has none"
        return Finding(UNKNOWN, "validation", why)
    left = [step for step in off if not off[step] >= -tolerance]
    step = left[0] if left else max(off, key=lambda step: abs(off[step]))
    figures = f"{100 * one[step]:.2f}, published {100 * other[step]:.2f}"
    text = f"mIoU at step {step}: {figures}, tolerance {tolerance:g} points"
    return Finding(LEAVES if left else FOLLOWS, "validation", text)


def _figure(figure: Figure, stage: str) -> Finding:
    """Return whether a figure is near the published ones; a better one follows too."""
    if figure.result is None:
        return Finding(UNKNOWN, stage, "not measured yet")
    if figure.goal is None:
        return Finding(UNKNOWN, stage, f"mIoU {figure.miou:.2f}; nothing is published")
    expected = TOLERANCES[stage].get("expected", {})
    if why := figure.note or differences(figure.result["settings"], expected):
        return Finding(UNKNOWN, stage, why)
    tolerance = TOLERANCES[stage]["tolerance"]
    near = figure.miou >= min(figure.goal.mious) - tolerance
    text = f"mIoU {figure.miou:.2f}, published {figure.goal}, tolerance {tolerance:g} points"
    return Finding(FOLLOWS if near else LEAVES, stage, text)
