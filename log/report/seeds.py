"""Means over sessions that differ in nothing but their seed."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import train_irn
import train_resnet50_SIPE
import train_seg
from log.figures import TRAINER, Run, differences
from log.render import render
from tool.errors import InputError
from tool.writer import write_json, write_own

TRAINERS = (train_resnet50_SIPE, train_irn, train_seg)
ABOUT = ("dataset", "list", "images", "settings")  # decide whether figures can be compared
WEIGHTS = ("digest", "ckpt", "irn_ckpt")  # in the notes of folders; every seed has its own


def check_together(runs: Sequence[Run]) -> None:
    """Raise an InputError where sessions are not of several seeds.

    A file of one cannot be read, one stands there twice, or two have one seed, the same
    predictions, or other datasets, lists or settings.
    """
    for run in runs:
        if run.unread:
            raise InputError(run.unread[0])
    for one, other in combinations(runs, 2):
        names, ours, theirs = f"{one.path} and {other.path}", own_of(one), own_of(other)
        same = [what for what, value in ours.items() if value == theirs.get(what)]
        if same:
            raise InputError(f"{names} have the same {same[0]}. Name one of them.")
        ours, theirs = shared_of(one), shared_of(other)
        words = differences(ours | theirs, ours)
        if words:
            raise InputError(
                f"{names} differ: {words[:200]}. Means are over sessions that differ in their seed "
                "alone."
            )


def own_of(run: Run) -> dict[str, Any]:
    """Return what two sessions must not have in common, by what it is."""
    own = {
        f"predictions in eval_{n}.json": r["digests"]["predictions"] for n, r in run.results.items()
    }
    if "seed" in run.settings.get(TRAINER, {}):
        own["--seed"] = run.settings[TRAINER]["seed"]
    return own


def shared_of(run: Run) -> dict[str, Any]:
    """Return what all sessions must have in common, by what it is."""
    shared = {}
    for trainer in TRAINERS:
        program = trainer.__name__
        if program not in run.settings:
            continue
        settings = run.settings[program]
        session = f"{settings.get('session_name')}/"
        for name, _ in trainer.parse_arguments([]).parser.deciding:
            shared[f"--{name} of {program}.py"] = str(settings.get(name)).removeprefix(session)
        del shared[f"--seed of {program}.py"]
    for figure in run.figures():
        for name in ABOUT if figure.result else ():
            shared[f"{name} of {figure.title}"] = _without_weights(figure.result[name])
    return shared


def _without_weights(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_weights(one) for name, one in value.items() if name not in WEIGHTS}


def summarise(paths: Sequence[Path], classes: Sequence[str] | None) -> str:
    """Write mean and standard deviation (n - 1) of every figure, and return them as a table.

    They are in ``summary.json`` of the first session.

    Raises:
        InputError: see :func:`check_together`.
    """
    runs = [Run(path, classes) for path in paths]
    check_together(runs)
    tables = [{figure.name: figure.miou for figure in run.figures()} for run in runs]
    found = {}
    for name in tables[0]:
        values = [table[name] for table in tables if table.get(name) is not None]
        if values:
            deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
            found[name] = {"mean": np.mean(values), "deviation": deviation, "values": values}
    summary = {"sessions": list(map(str, paths)), "classes": classes, "miou": found}
    write_json(paths[0] / "summary.json", summary, write_own)
    return render("means.txt", run=runs[0], found=found, path=paths[0] / "summary.json")
