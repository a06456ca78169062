"""What a session made: a page to look at, a summary here, and a model card.

Reads   SESSION: args.json, curves.csv, eval_*.json and .csv, seconds.txt, maps, labels; the dataset
Writes  SESSION/report.html, README.md, results.json and report.png, some of the page's pictures; of
        several sessions FIRST/summary.json instead
Try     python -m tool.report demo
        python -m tool.report demo_1 demo_2 demo_3

Several sessions are those of several seeds: mean and deviation of every figure are printed. What a
session does not have is said to be missing, and what cannot be read is named.
"""

import platform
from functools import partial
from pathlib import Path
from typing import Any

from data.base import Dataset
from data.coverage import covers_of, remarks, totals
from data.datasets import DATASETS, add_dataset_flags, open_dataset
from data.doctor.machine import commit
from log import charts
from log.curves import read_recorded
from log.figures import Run, mistakes
from log.render import render
from log.report.gallery import SEGMENTED, data_url, figure, gallery
from log.report.seeds import summarise
from tool import cli
from tool.errors import InputError
from tool.run import run
from tool.writer import write_json, write_lines, write_own

MAPS = "npy"
COVERED = {**SEGMENTED, MAPS: "IS-CAM", "pseudo_label": "pseudo labels"}  # folder, title


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__, prog="python -m tool.report")
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


def dataset_of(session: Run, args: cli.Settings) -> Dataset:
    """Return the dataset that the flags name, or else the session; an InputError says why not.

    Only a flag may name a class of the user's own, which is imported.
    """
    args.session_name = session.path
    if args.dataset is None and session.dataset not in DATASETS:
        raise InputError(f"{session.path} does not say its dataset. Name it with --dataset.")
    for name in ("dataset", "dataset_root", "negative_class"):
        setattr(args, name, getattr(args, name) or session.noted(name))
    return open_dataset(args)


def charts_of(session: Run) -> list[str]:
    """Return the curves of step 1.1 over those of the recorded run, an SVG each."""
    if session.curves is None:
        return []
    runs = {session.beside: read_recorded(session.beside)} if session.beside else {}
    runs["this run"] = session.curves
    return [charts.svg(runs, name) for name in charts.names_of(runs)]


def looked_at(session: Run, dataset: Dataset) -> dict[str, Any]:
    """Return what can be said and shown of a session's maps and labels, with masks or without."""
    covered, remarked, covers = {}, [], []
    for name, title in COVERED.items():
        folder, ending = session.path / name, ".npz" if name == MAPS else ".png"
        ids = sorted(path.stem for path in folder.glob(f"[!.]*{ending}"))
        found = covers_of(dataset, folder, ids, ending)
        if found:
            covers, covered[title] = found, totals(found)
            remarked += [f"{title}: {remark}" for remark in remarks(found)]
    pictures = list(gallery(session, dataset, covers))
    return {"covered": covered, "remarks": remarked, "pictures": pictures}


def write_report(session: Run, args: cli.Settings) -> None:
    """Write the page and the card of one session, and print the summary."""
    versions = session.noted("versions") or {}
    judged = session.results.get("pseudo_label") or session.results.get("cam")
    commands = [line for s in session.settings.values() for line in s.get("commands") or ()]
    figures = list(session.figures())
    values: dict[str, Any] = {
        "run": session,
        "figures": figures,
        "facts": {"commit here": commit(), **versions, "system": platform.platform()},
        "commands": [line for line in commands if line.isprintable()],
        "charts": charts_of(session),
        "mistakes": mistakes(judged) if judged else [],
        "data_url": data_url,
        "covered": {},
        **dict.fromkeys(("remarks", "pictures", "why"), ()),
    }
    try:
        values |= looked_at(session, dataset_of(session, args))
    except InputError as error:
        values["why"] = error
    miou = {one.name: one.result["miou"] for one in figures if one.result}
    write_json(session.path / "results.json", {"miou": miou, "seconds": session.seconds}, write_own)
    if values["pictures"]:
        save = partial(figure(values["pictures"]).savefig, bbox_inches="tight")
        write_own(session.path / "report.png", save)
    for name, template in {"report.html": "page.html", "README.md": "card.md"}.items():
        write_lines(session.path / name, [render(template, **values)], write_own)
    print(render("summary.txt", **values))


def main(arguments: cli.Words = None) -> None:
    """Write and print it all."""
    args = parse_arguments(arguments)
    if len(args.sessions) > 1:
        print(summarise(args.sessions, args.classes))
    else:
        write_report(Run(args.sessions[0], args.classes), args)


if __name__ == "__main__":
    run(main)
