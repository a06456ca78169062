"""What a session made: a page to look at, a summary here, and a model card.

Reads   SESSION: args.json, curves.csv, eval_*.json and .csv, seconds.txt, maps, labels; the dataset
Writes  SESSION/report.html, SESSION/README.md; of several sessions FIRST/summary.json instead
Try     python -m tool.report demo
        python -m tool.report demo_1 demo_2 demo_3

Several sessions are those of several seeds: mean and deviation of every figure are printed. What a
session does not have is said to be missing, and what cannot be read is named.
"""

import platform
from pathlib import Path
from typing import Any

import torch

from data.base import Dataset
from data.datasets import DATASETS, add_dataset_flags, open_dataset
from data.doctor.machine import commit
from log import charts
from log.curves import read_recorded
from log.figures import Run, mistakes, read_run
from log.report.commands import commands
from log.report.gallery import gallery
from log.report.render import clock, render
from log.report.seeds import summarise
from tool import cli
from tool.errors import InputError
from tool.pictures import label_colours
from tool.run import run
from tool.writer import write_own

LABELS, MAPS = "pseudo_label", "cam"  # the evaluations whose classes are shown


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.StepParser(__doc__)
    parser.prog = "python -m tool.report"
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
    versions = next((s["versions"] for s in session.settings.values() if s.get("versions")), {})
    devices = {s["device"] for s in session.settings.values() if s.get("device")}
    about = {"commit here": commit(), **versions, "device asked for": ", ".join(sorted(devices))}
    return {**about, "system": platform.platform(), "PyTorch here": torch.__version__}


def summary_of(session: Run) -> str:
    """Return the figures as lines for a terminal."""
    lines = [f"{'mIoU in percent':28}{'this run':>12}{session.origin:>12}"]
    for figure in session.figures():
        ours = "missing" if figure.miou is None else f"{figure.miou:.2f}"
        lines.append(f"{figure.title:28}{ours:>12}{figure.beside:>12}  {figure.note}".rstrip())
    if session.scope:
        lines.append(session.scope)
    if session.seconds:
        lines.append(f"all steps together: {sum(session.seconds.values())} s")
    lines += [f"not read: {text}" for text in session.unread]
    return "\n".join(lines)


def dataset_of(session: Run, args: cli.Settings) -> Dataset:
    """Return the dataset that the flags name, or else the session; an InputError says why not.

    Only a flag may name a class of the user's own, which is imported.
    """
    settings = next((s for s in session.settings.values() if s.get("dataset")), {})
    args.session_name = session.path
    if args.dataset is None and settings.get("dataset") not in DATASETS:
        raise InputError(f"{session.path} does not tell its dataset. Name it with --dataset.")
    args.dataset = args.dataset or settings["dataset"]
    args.dataset_root = args.dataset_root or settings.get("dataset_root")
    args.negative_class = args.negative_class or settings.get("negative_class")
    return open_dataset(args)


def page_of(session: Run) -> dict[str, Any]:
    """Return what the page shows of curves and classes, by the template's names."""
    beside = {session.beside: read_recorded(session.beside)} if session.beside else {}
    labels, maps = (session.results.get(name) for name in (LABELS, MAPS))
    judged = labels or maps
    return {
        "curves": charts.svgs(beside | {"this run": session.curves}) if session.curves else [],
        "colours": {"ours": charts.OURS, "theirs": charts.THEIRS},
        "labels": labels["iou"] if labels else {},
        "maps": maps["iou"] if maps else {},
        "mistakes": mistakes(judged) if judged else [],
        "times": {name: clock(seconds) for name, seconds in session.seconds.items()},
        "tints": label_colours().astype(int).tolist(),
    }


def write_report(args: cli.Settings) -> None:
    """Write the page and the card of one session, and print the summary."""
    session = read_run(args.sessions[0], args.classes)
    about: dict[str, Any] = {"names": (), "pictures": [], "why": ""}
    try:
        dataset = dataset_of(session, args)
        about |= {"names": dataset.all_names, "pictures": list(gallery(session, dataset))}
    except InputError as error:
        about["why"] = str(error)
    about |= {"run": session, "commands": commands(session), "facts": facts_of(session)}
    print(summary_of(session))
    page, card = session.path / "report.html", session.path / "README.md"
    for path, content in (
        (page, render("page.html", **about, **page_of(session))),
        (card, render("card.md", **about)),
    ):
        write_own(path, lambda file, content=content: file.write(content))
    print(f"the page: {page}; the card: {card}")


def main(arguments: list[str] | None = None) -> None:
    """Write and print it all."""
    args = parse_arguments(arguments)
    if len(args.sessions) == 1:
        return write_report(args)
    print(summarise(args.sessions, args.classes))
    print(f"the same figures: {args.sessions[0] / 'summary.json'}")


if __name__ == "__main__":
    run(main)
