"""Does a run follow the published one? Stage by stage, with the tolerances of tolerances.json.

``python log/compare.py RUN --check`` prints what :func:`check` returns.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.doctor.finding import Finding
from log.curves import FOLDER, PUBLISHED, Curves, nearest, read_recorded
from log.figures import RESULTS, TRAINER, Figure, Run, differences
from log.render import render

TOLERANCES = json.loads((FOLDER / "tolerances.json").read_text())
STAGES = {"is_cam": "is_cam", "crf": "labels", "irn": "labels"}  # of figures
STAGES |= {"seg": "segmentation", "seg_v1": "segmentation"}
LEAST_STEP = 100  # before it, one batch decides the figures
LEAST_ROWS = 6  # of a mean
FOLLOWS, LEAVES = "ok", "off"
SKIPPED, OPEN = "-", "?"  # where a stage is not known, and where the run cannot be judged then


def check(path: Path, ours: Curves, against: str | None) -> tuple[str, int]:
    """Return the text of a check and its exit status: 0 follows, 1 leaves, 2 cannot be decided.

    Args:
        path: of the run; its session is that folder, or the one it lies in.
        ours: its curves.
        against: the published run; None is the one of the same length and the nearest first rate.
    """
    name = against or nearest(ours, PUBLISHED)
    if name:
        findings = list(examine(path if path.is_dir() else path.parent, ours, name))
    else:
        why = f"no published run made {ours.total_steps} steps; name one with --against"
        findings = [Finding(OPEN, "list", why)]
    left, unknown = ([f for f in findings if f.status == status] for status in (LEAVES, OPEN))
    text = render(
        "check.txt",
        path=path,
        name=name,
        about=TOLERANCES,
        ours=ours,
        findings=findings,
        left=left,
        unknown=unknown,
    )
    return text, 1 if left else 2 if unknown else 0


def examine(session: Path, ours: Curves, name: str) -> Iterator[Finding]:
    """Yield a finding for every stage of a run, in the order in which they are run.

    Args:
        session: folder of the run.
        ours: its curves.
        name: of the published run.
    """
    run, theirs, spacing = Run(session), read_recorded(name), PUBLISHED[name]
    run.beside, dataset = name, name.split("_")[0]
    settings = run.settings.get(TRAINER, {})
    yield from (Finding(OPEN, "files", text) for text in run.unread)

    listed, pictures = RESULTS["trained_on"][dataset]
    yield _settings(settings, {"dataset": dataset, "lr": theirs.rate, "train_list": listed})
    status = FOLLOWS if ours.total_steps == theirs.total_steps else LEAVES
    steps = f"{ours.total_steps} steps, published {theirs.total_steps}"
    yield Finding(status, "list", f"{steps} ({pictures} pictures, 5 epochs of 16)")
    weights = str(settings.get("pretrained", "unknown") or "imagenet")  # None starts from that
    status = {"imagenet": FOLLOWS, "none": LEAVES}.get(weights, SKIPPED)
    yield Finding(status, "weights", f"{weights}, published: imagenet")

    yield near("learning_rate", ours.of("learning_rate"), theirs.of("learning_rate"))
    last = min(ours.last_step, theirs.last_step)
    ends = [LEAST_STEP, *range(spacing, last, spacing), last]
    for loss in ("loss_cls", "loss_gsc"):
        mean = ours.means(loss, ends, LEAST_ROWS)
        yield near(loss, mean, theirs.means(loss, ends, LEAST_ROWS))
    judged = str(settings.get("val_list") or "train")
    if Path(judged).stem == "train":
        yield near("validation", ours.of("miou"), theirs.of("miou"))
    else:
        yield Finding(SKIPPED, "validation", f"on {judged}; the published run has train")
    for figure in run.figures():
        kind = figure.name.partition(" in ")[0]
        if kind in STAGES:
            yield _figure(figure, STAGES[kind])


def _settings(settings: dict[str, Any], of_run: dict[str, Any]) -> Finding:
    if not settings:
        return Finding(SKIPPED, "settings", "no args.json beside the run has them")
    listed = Path(str(settings.get("train_list") or of_run["train_list"])).stem
    found, expected = settings | {"train_list": listed}, TOLERANCES["settings"]["expected"] | of_run
    other, unknown = (differences(one, expected) for one in (expected | found, found))
    status = LEAVES if other else OPEN if unknown else FOLLOWS
    return Finding(status, "settings", other or unknown or "as published")


def near(
    stage: str, ours: dict[int, float], theirs: dict[int, float], where: str = "at step {}: "
) -> Finding:
    """Return whether values are near the published ones: the first that is not, or the farthest.

    Args:
        stage: whose tolerance counts. A ``relative`` one is a share of the published value; of one
            ``below``, values may be that much smaller, and larger at will.
        ours: values by step.
        theirs: published ones.
        where: stands before a value; {} is the step.
    """
    about = TOLERANCES[stage]
    tolerance, relative = about["tolerance"], about["kind"] == "relative"
    steps = [step for step in ours if step in theirs]
    if not steps:
        return Finding(OPEN if relative else SKIPPED, stage, "too few values to compare")

    def excess(step: int) -> float:
        off = theirs[step] - ours[step]
        if relative:
            return abs(off) / (tolerance * abs(theirs[step]) + about.get("rounding", 0))
        return off / tolerance

    left = [step for step in steps if not excess(step) <= 1]  # NaN leaves
    step = left[0] if left else max(steps, key=excess)
    values = f"{ours[step]:.4g}, published {theirs[step]:.4g}"
    text = f"{where.format(step)}{values}, tolerance {tolerance:g}, {about['kind']}"
    return Finding(LEAVES if left else FOLLOWS, stage, text)


def _figure(figure: Figure, stage: str) -> Finding:
    """Return whether a figure is near the published ones."""
    if figure.result is None or not (figure.goals or figure.note):
        return near(stage, {}, {})
    expected = TOLERANCES[stage].get("expected", {})
    if why := figure.note or differences(figure.result["settings"], expected):
        return Finding(SKIPPED, stage, why)
    return near(stage, {0: figure.miou}, {0: min(figure.goals)}, "mIoU ")
