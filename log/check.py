"""Does a run follow the published one? Stage by stage, with the tolerances of tolerances.json.

``python log/compare.py RUN --check`` prints what :func:`check` returns.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from log.curves import FOLDER, PUBLISHED, Curves, read_recorded
from log.figures import LABELS, SEGMENTATION, TRAINER, Figure, Goal, Run, published, read_run
from log.figures import PUBLISHED as RESULTS

TOLERANCES = json.loads((FOLDER / "tolerances.json").read_text())
LISTS = {"voc": ("trainaug", 10582), "coco": ("train", 82081)}  # of step 1.1, and their pictures
JUDGED = "train"  # the list of validations
LEAST_STEPS = 100  # before these, one batch decides the figures
FOLLOWS, LEAVES, UNKNOWN = "ok", "LEAVES", "-"
STATUS = {FOLLOWS: 0, LEAVES: 1, UNKNOWN: 2}


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


def published_run(ours: Curves) -> str | None:
    """Return the published run that a training looks like, by its steps and first rate, or None."""
    steps = RESULTS["iterations"]
    dataset = next((name for name, number in steps.items() if number == ours.total_steps), None)
    first = next(iter(ours.of("learning_rate").values()), math.nan)
    if dataset == "voc" and math.isclose(first, 0.05, rel_tol=0.05):
        return "voc_cvpr_run"
    return dataset and f"{dataset}_repository_run"


def check(ours: Curves, name: str | None, session: Path) -> tuple[str, int]:
    """Return the text of a check and its exit status: 0 follows, 1 leaves, 2 cannot be told.

    Args:
        ours: curves of the run.
        name: of the published run, such as ``voc_repository_run``; None: none is alike.
        session: folder with the settings and results of the run.
    """
    if name is None:
        steps = RESULTS["iterations"].items()
        lengths = ", ".join(f"{number} ({dataset})" for dataset, number in steps)
        why = f"it is set to {ours.total_steps} steps, and the published ones made {lengths}"
        return f"It cannot be told whether the run follows: {why}.", STATUS[UNKNOWN]
    findings = list(examine(ours, read_recorded(name), name, read_run(session)))
    return report(findings, ours)


def examine(ours: Curves, theirs: Curves, name: str, run: Run) -> Iterator[Finding]:
    """Yield a finding for every stage, in the order in which they are run.

    Args:
        ours, theirs: curves of both runs.
        name: of the published run.
        run: our session.
    """
    dataset = name.split("_")[0]
    settings = run.settings.get(TRAINER, {})
    for text in run.unread:
        yield Finding(UNKNOWN, "files", text, needed=True)
    yield _settings(settings, dataset, name)
    yield _list(ours, settings, dataset)
    yield _weights(settings)
    yield from _curves(ours, theirs, PUBLISHED[name].spacing)
    yield _validation(ours, theirs, settings)
    yield from _results(run, dataset, name)


def differences(settings: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return which settings are not as expected, or not known, as words; nothing where all are."""
    found = {name: settings.get(name, "unknown") for name in expected}
    other = [name for name in expected if found[name] != expected[name]]
    return "; ".join(f"{name} {found[name]} (published {expected[name]})" for name in other)


def _settings(settings: dict[str, Any], dataset: str, name: str) -> Finding:
    if not settings:
        return Finding(UNKNOWN, "settings", "no args.json beside the run tells them")
    expected = {"dataset": dataset, **TOLERANCES["settings"]["expected"]}
    if name == "voc_cvpr_run":
        expected["lr"] = 0.05
    other = differences(settings, {key: expected[key] for key in expected if key in settings})
    unknown = differences(settings, expected)
    verdict = LEAVES if other else UNKNOWN if unknown else FOLLOWS
    return Finding(verdict, "settings", other or unknown or "as published", needed=True)


def _list(ours: Curves, settings: dict[str, Any], dataset: str) -> Finding:
    (name, pictures), steps = LISTS[dataset], RESULTS["iterations"][dataset]
    text = f"{ours.total_steps} steps, published {steps} ({pictures} pictures, 5 epochs of 16)"
    given = settings.get("train_list") or name
    if Path(str(given)).stem != name:
        return Finding(LEAVES, "list", f"train_list {given} (published {name}); {text}")
    return Finding(FOLLOWS if ours.total_steps == steps else LEAVES, "list", text)


def _weights(settings: dict[str, Any]) -> Finding:
    if "pretrained" not in settings:
        return Finding(UNKNOWN, "weights", "no args.json says what the training began from")
    source = str(settings["pretrained"] or "imagenet")  # what VOC and COCO start from
    text = f"{source}, published: imagenet"
    known = {"imagenet": FOLLOWS, "none": LEAVES}
    return Finding(known.get(source, UNKNOWN), "weights", text)


def _curves(ours: Curves, theirs: Curves, spacing: int) -> Iterator[Finding]:
    last = ours.last_step
    if last < LEAST_STEPS:
        text = f"{last} steps are too few: {LEAST_STEPS} are needed"
        yield Finding(UNKNOWN, "losses", text, needed=True)
        return
    rates, other = ours.of("learning_rate"), theirs.of("learning_rate")
    rows = [(step, rates[step], other[step]) for step in rates if step in other]
    yield _first("learning_rate", rows, 5e-5)  # what four digits round off
    ends = sorted({*range(spacing, last + 1, spacing), last})
    for name in ("loss_cls", "loss_gsc"):
        one, other = ours.of(name), theirs.of(name)
        rows, before = [], LEAST_STEPS if last > 2 * LEAST_STEPS else -1
        for end in ends:
            shared = [s for s in one if before < s <= end and s in other]
            if len(shared) > 5:
                rows.append((end, _mean(one, shared), _mean(other, shared)))
            before = end
        yield _first(name, rows, 0.0)


def _mean(curve: dict[int, float], steps: list[int]) -> float:
    return sum(curve[step] for step in steps) / len(steps)


def _first(name: str, rows: list[tuple[int, float, float]], rounding: float) -> Finding:
    """Return where a curve first leaves the published one, or how far it is at most."""
    tolerance = TOLERANCES[name]["tolerance"]
    if not rows:
        return Finding(UNKNOWN, name, "no step is in both runs", needed=True)
    for step, one, other in rows:
        if not abs(one - other) <= tolerance * abs(other) + rounding:  # NaN leaves
            text = f"at step {step}: {one:.4f}, published {other:.4f}, tolerance"
            return Finding(LEAVES, name, f"{text} {100 * tolerance:.0f} %")
    offs = {step: abs(one - other) / max(abs(other), 1e-12) for step, one, other in rows}
    step = max(offs, key=offs.get)
    text = f"to step {rows[-1][0]}, at most {100 * offs[step]:.1f} % off (step {step}), "
    return Finding(FOLLOWS, name, f"{text}tolerance {100 * tolerance:.0f} %")


def _validation(ours: Curves, theirs: Curves, settings: dict[str, Any]) -> Finding:
    tolerance = TOLERANCES["validation"]["tolerance"]
    judged = settings.get("val_list") or JUDGED
    one, other = ours.of("miou"), theirs.of("miou")
    off = {step: 100 * (one[step] - other[step]) for step in sorted(set(one) & set(other))}
    if Path(str(judged)).stem != JUDGED:
        return Finding(UNKNOWN, "validation", f"on {judged}; the published run has {JUDGED}")
    if not off:
        why = "none of the published steps" if other else "the published run has none"
        return Finding(UNKNOWN, "validation", why)
    bad = [step for step in off if not off[step] >= -tolerance]
    step = bad[0] if bad else max(off, key=lambda s: abs(off[s]))
    figures = f"{100 * one[step]:.2f}, published {100 * other[step]:.2f}"
    text = f"mIoU at step {step}: {figures}, tolerance {tolerance:g} points"
    return Finding(LEAVES if bad else FOLLOWS, "validation", text)


def _results(run: Run, dataset: str, name: str) -> Iterator[Finding]:
    """Yield the stages behind the training."""
    figures = {f.kind: f for f in reversed(run.figures()) if f.result}  # the first of a kind
    version = name.removeprefix(f"{dataset}_")
    yield _figure("is_cam", figures.get("is_cam"), [published("is_cam", dataset, version)])
    kind = next((kind for kind in LABELS if kind in figures), "irn")
    goals = [published("crf", dataset)]
    if kind == "irn" and goals[0]:
        users = RESULTS["pseudo_label_voc_train"]["irn_reported_by_users"]
        goals = [replace(goals[0], miou=miou) for miou in users]
    yield _figure("labels", figures.get(kind), goals if kind != "labels" else [None])
    for kind in SEGMENTATION.values():
        if kind in figures or kind == "seg":
            yield _figure("segmentation", figures.get(kind), [published(kind, dataset)])


def _figure(stage: str, figure: Figure | None, goals: list[Goal | None]) -> Finding:
    """Return whether a figure is near the published ones; a better one follows too."""
    if figure is None:
        return Finding(UNKNOWN, stage, "not measured yet")
    if goals[0] is None:
        return Finding(UNKNOWN, stage, f"mIoU {figure.miou:.2f}; nothing is published")
    settings, expected = figure.result["settings"], TOLERANCES[stage].get("expected", {})
    if why := goals[0].differs(figure.result) or differences(settings, expected):
        return Finding(UNKNOWN, stage, why)
    tolerance, mious = TOLERANCES[stage]["tolerance"], [goal.miou for goal in goals]
    text = " to ".join(f"{miou:g}" for miou in sorted({min(mious), max(mious)}))
    text = f"mIoU {figure.miou:.2f}, published {text}, tolerance {tolerance:g} points"
    return Finding(FOLLOWS if figure.miou >= min(mious) - tolerance else LEAVES, stage, text)


def report(findings: list[Finding], ours: Curves) -> tuple[str, int]:
    """Return the text of a check and its exit status, see :func:`check`."""
    lines = [str(finding) for finding in findings]
    left = next((finding for finding in findings if finding.verdict == LEAVES), None)
    if left:
        lines.append(f"\nThe run first leaves the published one in its {left.stage}: {left.text}.")
        lines.append("What usually causes that:")
        lines += [f"  * {cause}" for cause in TOLERANCES[left.stage]["causes"]]
        return "\n".join(lines), STATUS[LEAVES]
    unknown = [f for f in findings if f.verdict == UNKNOWN and f.needed]
    if unknown:
        why = "; ".join(f"{finding.stage} ({finding.text})" for finding in unknown[:2])
        lines.append(f"\nIt cannot be told whether the run follows: {why}.")
        return "\n".join(lines), STATUS[UNKNOWN]
    done = ours.last_step + 10 >= ours.total_steps
    lines.append(f"\nThe run follows the published one{'' if done else ' so far'}.")
    return "\n".join(lines), STATUS[FOLLOWS]
