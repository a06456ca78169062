"""Means over sessions that differ in nothing but their seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from log.figures import TRAINER, Run, read_run
from log.report.commands import TRAINERS, deciding_of
from tool.errors import InputError
from tool.writer import write_json, write_own

WEIGHTS = ("digest", "ckpt", "irn_ckpt")  # in the notes of folders


def read_runs(paths: Sequence[Path], classes: Sequence[str] | None) -> list[Run]:
    """Return sessions that may be put together.

    Raises:
        InputError: a file of one cannot be read, one stands there twice, or two have one seed, the
            same predictions, or other datasets, lists or settings.
    """
    runs = [read_run(path, classes) for path in paths]
    for place, run in enumerate(runs):
        if run.unread:
            raise InputError(run.unread[0])
        for other in runs[:place]:
            names, theirs = f"{other.path} and {run.path}", own_of(other)
            for what, value in own_of(run).items():
                if value == theirs.get(what):
                    raise InputError(f"{names} have the same {what}, {value}. Name one of them.")
            theirs = shared_of(other)
            for what, value in shared_of(run).items():
                if value != theirs.get(what, value):
                    before, after = str(theirs[what])[:80], str(value)[:80]
                    raise InputError(
                        f"{names} differ in {what}: {before}, and {after}. Means are over sessions "
                        "that differ in their seed alone."
                    )
    return runs


def own_of(run: Run) -> dict[str, Any]:
    """Return what two sessions must not have in common, by what it is."""
    own = {"folder": run.path.resolve()}
    if "seed" in run.settings.get(TRAINER, {}):
        own["--seed"] = run.settings[TRAINER]["seed"]
    for name, result in run.results.items():
        own[f"predictions in eval_{name}.json"] = result["digests"]["predictions"]
    return own


def shared_of(run: Run) -> dict[str, Any]:
    """Return what all sessions must have in common, by what it is."""
    shared = {}
    for program in set(TRAINERS) & set(run.settings):
        settings = run.settings[program]
        for name in deciding_of(program):
            value, session = settings.get(name), f"{settings.get('session_name')}/"
            inside = isinstance(value, str) and value.startswith(session)
            shared[f"--{name} of {program}.py"] = value.removeprefix(session) if inside else value
        shared.pop(f"--seed of {program}.py")
    for figure in run.figures():
        for key in ("dataset", "list", "images", "settings") if figure.result else ():
            shared[f"the {key} of {figure.title}"] = _without_weights(figure.result[key])
    return shared


def _without_weights(value: Any) -> Any:
    """Return settings without the digests of checkpoints, which every seed has of its own."""
    if not isinstance(value, dict):
        return value
    return {key: _without_weights(one) for key, one in value.items() if key not in WEIGHTS}


def summarise(paths: Sequence[Path], classes: Sequence[str] | None) -> str:
    """Write mean and standard deviation (n - 1) of every figure, and return them as a table.

    They are in ``summary.json`` of the first session.

    Raises:
        InputError: see :func:`read_runs`.
    """
    runs = read_runs(paths, classes)
    rows, found = [], {}
    for figure in runs[0].figures():
        values = _values(runs, figure.name)
        if not values:
            continue
        mean, deviation = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
        rows.append(
            f"{figure.title:28}{mean:10.2f} ± {deviation:.2f}   n={len(values)} {figure.beside:>8}"
        )
        found[figure.name] = {"mean": mean, "deviation": deviation, "values": values}
    about = {"sessions": list(map(str, paths)), "classes": classes}
    write_json(paths[0] / "summary.json", about | {"miou": found}, write_own)
    head = f"{'mIoU in percent':28}{'mean ± deviation':>17}{runs[0].origin:>14}"
    return "\n".join(filter(None, [head, *rows, runs[0].scope]))


def _values(runs: Sequence[Run], name: str) -> list[float]:
    figures = (figure for run in runs for figure in run.figures() if figure.name == name)
    return [figure.miou for figure in figures if figure.miou is not None]
