"""What a session made: a page to look at, a summary here, and a model card.

Reads   SESSION: args.json, the log, eval_*.json and .csv, seconds.txt, maps and labels; the dataset
Writes  SESSION/report.html, SESSION/README.md; of several sessions FIRST/summary.json instead
Try     python -m tool.report demo
        python -m tool.report demo_1 demo_2 demo_3

Several sessions are those of several seeds: mean and deviation of every figure are printed. What a
session does not have is said to be missing.
"""

import argparse
import platform
from pathlib import Path

import numpy as np
import torch

from data.datasets import add_dataset_flags, open_dataset
from data.doctor.machine import commit
from log.report.card import card
from log.report.figures import Run, read_run
from log.report.gallery import gallery
from log.report.page import page
from tool import cli
from tool.errors import InputError
from tool.files import write_atomic, write_json
from tool.run import run


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.StepParser(__doc__)
    parser.add_argument("sessions", nargs="+", type=Path, help="folders of runs")
    parser.add_argument(
        "--classes", nargs="+", help="figures are means over these; None is all that occur"
    )
    add_dataset_flags(parser)
    parser.set_defaults(dataset=None)
    args = parser.parse_args(arguments)
    for session in args.sessions:
        if not session.is_dir():
            raise InputError(f"There is no session {session}.")
    return args


def facts_of(session: Run) -> dict[str, str]:
    """Return versions, by name: of the programs that ran, and of the code that stands here."""
    versions = next((s["versions"] for s in session.settings.values() if "versions" in s), {})
    devices = {str(s["device"]) for s in session.settings.values() if "device" in s}
    about = {"commit here": commit(), **versions, "device asked for": ", ".join(devices)}
    return {**about, "system": platform.platform(), "PyTorch here": torch.__version__}


def summary_of(session: Run) -> str:
    """Return the figures as lines for a terminal."""
    lines = [f"{'mIoU in percent':28}{'this run':>12}{session.origin:>12}"]
    for stage in session.stages():
        ours = "missing" if stage.miou is None else f"{stage.miou:.2f}"
        theirs = "" if stage.goal is None else f"{stage.goal:.4g}"
        lines.append(f"{stage.title:28}{ours:>12}{theirs:>12}  {stage.note}".rstrip())
    if session.scope:
        lines.append(session.scope)
    if session.seconds:
        lines.append(f"all steps together: {sum(session.seconds.values())} s")
    return "\n".join(lines)


def write_report(path: Path, args: argparse.Namespace) -> None:
    """Write the page and the card of one session, and print the summary."""
    session = read_run(path, args.classes)
    args.session_name = path
    settings = next((s for s in session.settings.values() if s.get("dataset")), {})
    args.dataset = args.dataset or settings.get("dataset")
    args.dataset_root = args.dataset_root or settings.get("dataset_root")
    args.negative_class = args.negative_class or settings.get("negative_class")
    pictures = []
    try:
        if args.dataset:
            pictures = list(gallery(session, open_dataset(args)))
    except InputError as error:
        print(f"no pictures are shown: {error}")
    facts = facts_of(session)
    content = page(session, pictures, facts).encode()
    write_atomic(path / "report.html", lambda file: file.write(content))
    text = card(session, facts).encode()
    write_atomic(path / "README.md", lambda file: file.write(text))
    print(summary_of(session))
    print(f"the page: {path / 'report.html'}; the card: {path / 'README.md'}")


def summarise(paths: list[Path], classes: list[str] | None) -> str:
    """Return mean and standard deviation (n - 1) of every figure of some sessions, as a table."""
    runs = [read_run(path, classes) for path in paths]
    rows, found = [], {}
    for stage in runs[0].stages():
        values = [s.miou for run_ in runs for s in run_.stages() if s.name == stage.name]
        values = [value for value in values if value is not None]
        if not values:
            continue
        mean, deviation = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
        goal = "" if stage.goal is None else f"{stage.goal:.4g}"
        rows.append(f"{stage.title:28}{mean:10.2f} ± {deviation:.2f}   n={len(values)} {goal:>8}")
        found[stage.name] = {"mean": mean, "deviation": deviation, "values": values}
    about = {"sessions": list(map(str, paths)), "classes": classes}
    write_json(paths[0] / "summary.json", about | {"miou": found})
    head = f"{'mIoU in percent':28}{'mean ± deviation':>17}{runs[0].origin:>14}"
    return "\n".join(filter(None, [head, *rows, runs[0].scope]))


def main(arguments: list[str] | None = None) -> None:
    """Write and print it all."""
    args = parse_arguments(arguments)
    if len(args.sessions) == 1:
        return write_report(args.sessions[0], args)
    print(summarise(args.sessions, args.classes))
    print(f"the same figures: {args.sessions[0] / 'summary.json'}")


if __name__ == "__main__":
    run(main)
