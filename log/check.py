"""Does a run follow the published one? Stage by stage, with the tolerances of tolerances.json.

``python log/compare.py LOG --check`` prints what :func:`examine` finds.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCES = json.loads((Path(__file__).parent / "tolerances.json").read_text())
RESULTS = json.loads((Path(__file__).parent / "published_results.json").read_text())
LISTED = {"voc": (10582, 3305), "coco": (82081, 25650)}  # pictures and steps of step 1.1
LEAST_STEPS = 100  # before these, one batch decides the figures
FOLLOWS, LEAVES, UNKNOWN = "ok", "LEAVES", "-"
STATUS = {FOLLOWS: 0, LEAVES: 1, UNKNOWN: 2}


@dataclass(frozen=True)
class Finding:
    """A line of the report: how a stage looks, what it is called, and figures of both runs."""

    verdict: str
    stage: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:6}  {self.stage:14} {self.text}"


def published_run(ours: Any, runs: dict[str, Any]) -> str | None:
    """Return the published run that a log looks like, by its steps and first rate, or None."""
    dataset = next((n for n, (_, steps) in LISTED.items() if steps == ours.total_steps), None)
    first = ours.learning_rate.get(min(ours.learning_rate))
    if dataset == "voc" and math.isclose(first, 0.05, rel_tol=0.05):
        return "voc_cvpr_run"
    return next((name for name in runs if dataset and name == f"{dataset}_repository_run"), None)


def read_beside(log: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of step 1.1 and the results of the evaluations beside a log, if any."""
    settings: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for path in sorted([log.parent / "args.json", *log.parent.glob("eval_*.json")]):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(content, dict):
            continue
        if path.name == "args.json":
            settings = content.get("train_resnet50_SIPE") or {}
        else:
            results[path.stem] = content
    return settings, results


def examine(ours: Any, published: Any, run: str, spacing: int, log: Path) -> Iterator[Finding]:
    """Yield a finding for every stage, in the order in which they are run.

    Args:
        ours, published: Curves of compare.py.
        run: name of the published run, such as ``voc_repository_run``.
        spacing: steps between the figures that are compared.
        log: of our run; settings and results lie beside it.
    """
    dataset = run.split("_")[0]
    settings, results = read_beside(log)
    yield from _settings(settings, dataset, run)
    yield _steps(ours, dataset)
    yield _weights(settings)
    yield from _curves(ours, published, spacing)
    yield _validation(ours, published)
    yield from _results(results, dataset, run)


def _settings(settings: dict[str, Any], dataset: str, run: str) -> Iterator[Finding]:
    if not settings:
        yield Finding(UNKNOWN, "settings", "no args.json beside the log")
        return
    if settings.get("dataset", dataset) != dataset:
        yield Finding(UNKNOWN, "settings", f"trained on {settings['dataset']}, not {dataset}")
        return
    expected = dict(TOLERANCES["settings"]["expected"])
    if run == "voc_cvpr_run":
        expected["lr"] = 0.05
    other = [
        f"{name} {settings[name]} (published {value})"
        for name, value in expected.items()
        if name in settings and settings[name] != value
    ]
    yield Finding(LEAVES if other else FOLLOWS, "settings", "; ".join(other) or "as published")


def _steps(ours: Any, dataset: str) -> Finding:
    pictures, steps = LISTED[dataset]
    text = f"{ours.total_steps} steps, published {steps} ({pictures} pictures, 5 epochs of 16)"
    return Finding(FOLLOWS if ours.total_steps == steps else LEAVES, "list", text)


def _weights(settings: dict[str, Any]) -> Finding:
    source = settings.get("pretrained")
    if source is None:
        return Finding(UNKNOWN, "weights", "no args.json says what the training began from")
    if source == "none":
        return Finding(LEAVES, "weights", "random, published: ImageNet")
    text = "ImageNet" if source == "imagenet" else f"the file {Path(str(source)).name}"
    return Finding(FOLLOWS if source == "imagenet" else UNKNOWN, "weights", text)


def _curves(ours: Any, published: Any, spacing: int) -> Iterator[Finding]:
    last = max(ours.loss_cls)
    if last < LEAST_STEPS:
        yield Finding(UNKNOWN, "losses", f"{last} steps are too few: {LEAST_STEPS} are needed")
        return
    rates = [s for s in ours.learning_rate if s in published.learning_rate]
    yield _first(
        "learning_rate",
        [(s, ours.learning_rate[s], published.learning_rate[s]) for s in rates],
        5e-5,  # what four digits round off
    )
    ends = [*range(spacing, last + 1, spacing)]
    ends = ends if last % spacing == 0 else [*ends, last]
    for name in ("loss_cls", "loss_gsc"):
        one, other = getattr(ours, name), getattr(published, name)
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
        return Finding(UNKNOWN, name, "no step is in both runs")
    for step, one, other in rows:
        if not abs(one - other) <= tolerance * abs(other) + rounding:  # NaN leaves
            text = f"at step {step}: {one:.4f}, published {other:.4f}, tolerance"
            return Finding(LEAVES, name, f"{text} {100 * tolerance:.0f} %")
    farthest = max(rows, key=lambda row: abs(row[1] - row[2]) / max(abs(row[2]), 1e-12))
    off = abs(farthest[1] - farthest[2]) / max(abs(farthest[2]), 1e-12)
    text = f"to step {rows[-1][0]}, at most {100 * off:.1f} % off (step {farthest[0]}), "
    return Finding(FOLLOWS, name, f"{text}tolerance {100 * tolerance:.0f} %")


def _validation(ours: Any, published: Any) -> Finding:
    tolerance = TOLERANCES["validation"]["tolerance"]
    steps = sorted(set(ours.miou) & set(published.miou))
    if not steps:
        why = "the published run has none" if not published.miou else "none of the published steps"
        return Finding(UNKNOWN, "validation", why)
    off = {step: 100 * (ours.miou[step] - published.miou[step]) for step in steps}
    bad = [step for step in steps if not off[step] >= -tolerance]
    step = bad[0] if bad else max(steps, key=lambda s: abs(off[s]))
    figures = f"{100 * ours.miou[step]:.2f}, published {100 * published.miou[step]:.2f}"
    text = f"mIoU at step {step}: {figures}, tolerance {tolerance:g} points"
    return Finding(LEAVES if bad else FOLLOWS, "validation", text)


def _results(results: dict[str, Any], dataset: str, run: str) -> Iterator[Finding]:
    """Yield the stages behind the training, whose figures lie beside the log."""
    kind = run.removeprefix(f"{dataset}_")
    published = RESULTS["localization_train"][dataset]
    goals = [value for name, value in published.items() if name.startswith(kind)]
    yield _figure("is_cam", results.get("eval_cam"), goals)
    labels = results.get("eval_pseudo_label")
    goals = []
    if labels and dataset == "voc":
        pseudo = RESULTS["pseudo_label_voc_train"]
        by_crf = (labels.get("settings") or {}).get("refine") == "crf"
        goals = [pseudo["is_cam_dense_crf"]] if by_crf else pseudo["irn_reported_by_users"]
    yield _figure("labels", labels, goals)
    for name, network in (("resnet101", "deeplabv2"), ("resnet38", "deeplabv1")):
        found = results.get(f"eval_seg_{network}_{name}")
        if found or network == "deeplabv2":
            goal = RESULTS["segmentation"][dataset][f"{name}_{network}"]["val"]
            yield _figure("segmentation", found, [goal])


def _figure(stage: str, result: dict[str, Any] | None, goals: list[float]) -> Finding:
    """Return whether a figure is near the published ones; a better one follows too."""
    if not result or not isinstance(result.get("miou"), int | float):
        return Finding(UNKNOWN, stage, "not measured yet")
    if not goals:
        return Finding(UNKNOWN, stage, f"mIoU {100 * result['miou']:.2f}; nothing is published")
    tolerance, miou = TOLERANCES[stage]["tolerance"], 100 * result["miou"]
    published = " to ".join(f"{goal:g}" for goal in sorted({min(goals), max(goals)}))
    verdict = FOLLOWS if miou >= min(goals) - tolerance else LEAVES
    text = f"mIoU {miou:.2f}, published {published}, tolerance {tolerance:g} points"
    return Finding(verdict, stage, text)


def report(findings: list[Finding], ours: Any, why: str | None = None) -> tuple[str, int]:
    """Return the text of a check and its exit status: 0 follows, 1 leaves, 2 cannot tell.

    Args:
        findings: of :func:`examine`.
        ours: Curves of compare.py.
        why: nothing can be said, for this reason.
    """
    lines = [str(finding) for finding in findings]
    left = next((finding for finding in findings if finding.verdict == LEAVES), None)
    curves = [f for f in findings if f.stage in ("loss_cls", "loss_gsc", "learning_rate")]
    if why or (left is None and (not curves or any(f.verdict == UNKNOWN for f in curves))):
        lines += ["", f"It cannot be told whether the run follows: {why or _unknown(findings)}."]
        return "\n".join(lines).lstrip("\n"), STATUS[UNKNOWN]
    if left:
        lines.append(f"\nThe run first leaves the published one in its {left.stage}: {left.text}.")
        lines.append("What usually causes that:")
        lines += [f"  * {cause}" for cause in TOLERANCES[left.stage]["causes"]]
        return "\n".join(lines), STATUS[LEAVES]
    done = max(ours.loss_cls) + 10 >= ours.total_steps
    lines.append(f"\nThe run follows the published one{'' if done else ' so far'}.")
    return "\n".join(lines), STATUS[FOLLOWS]


def _unknown(findings: list[Finding]) -> str:
    stages = [f"{f.stage} ({f.text})" for f in findings if f.verdict == UNKNOWN]
    return "; ".join(stages[:2])
