"""The check of a folder of your own pictures, before hours are spent on it.

    python -m data.folder --dataset_root pictures [--all]

Reads   all labels, lists and masks, headers of the pictures in lists, and some pictures wholly
Prints  what is there; warnings, of what makes the result worse; and failures

The exit status is 1 where a failure makes a step fail, else 0. A class is called rare below 10
pictures, and below a 50th of those of the most frequent class. ``python -m tool.doctor`` looks at
the machine too.
"""

import sys

from data.datasets import add_folder_flags, open_dataset
from data.doctor import dataset as looks
from data.doctor.finding import Check, Checks, show
from data.folder import Folder
from data.lists import visible
from tool.cli import Parser, Words
from tool.run import run


def checks_of(folder: Folder, whole: bool = False) -> Checks:
    """Yield the checks of all lists, their pictures and their masks."""
    names = [path.stem for path in visible(folder.splits) if path.suffix == ".txt"]
    yield "folder", pictures_of(folder)
    ids = {name: [] for name in (folder.train_list, *names)}
    yield from looks.checks_of(folder, ids, whole=whole)


def pictures_of(folder: Folder) -> Check:
    """Count the pictures."""
    yield "ok", f"{len(folder.pictures)} pictures in {folder.root}"


def main(arguments: Words = None) -> None:
    """Print what is in the folder, and exit with 1 where it cannot be used."""
    parser = Parser(__doc__, prog="python -m data.folder")
    parser.set_defaults(dataset="folder")
    parser.add_argument("--dataset_root", help="the folder; None is pictures")
    parser.add_argument("--all", action="store_true", help="decode all pictures, not 50 of them")
    add_folder_flags(parser)
    args = parser.parse_args(arguments)
    findings = show(checks_of(open_dataset(args), args.all))
    statuses = [finding.status for finding in findings]
    failures, warnings = statuses.count("FAIL"), statuses.count("warn")
    end = "Correct the failures first." if failures else "It can be used as it is."
    print(f"{failures} failures, {warnings} warnings. {end}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    run(main)
