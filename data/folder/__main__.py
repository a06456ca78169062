"""The check of a folder of your own pictures, before hours are spent on it.

    python -m data.folder --dataset_root pictures [--all]

Reads   all labels, lists and masks, the headers of all pictures, and some pictures wholly
Prints  a table of what is there; hints, of what makes the result worse; and faults

The exit status is 1 where a fault makes a step fail, else 0. A class is called rare below 10
pictures, and below a 50th of those of the most frequent class.
"""

import logging
import sys

from data.datasets import add_folder_flags
from data.folder import Folder
from data.folder.report import check
from tool.cli import StepParser
from tool.run import run

log = logging.getLogger("data.folder")


def main(arguments: list[str] | None = None) -> None:
    """Print what is in the folder, and exit with 1 where it cannot be used."""
    parser = StepParser(__doc__)
    parser.prog = "python -m data.folder"
    parser.add_argument("--dataset_root", default=Folder.default_root, help="the folder")
    parser.add_argument("--all", action="store_true", help="decode all pictures, not 50 of them")
    add_folder_flags(parser)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)

    folder = Folder(args.dataset_root, args.negative_class)
    folder.bands, folder.value_range = args.bands, args.value_range
    report = check(folder, args.all)
    log.info("%s", report)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    run(main)
