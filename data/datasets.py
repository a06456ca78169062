"""The table of datasets, of which ``--dataset`` names a row, or a class of the user's own.

All programs of a session read pictures alike: from the same bands, and from the same range of
values. The first one that refuses nothing writes ``<session>/value_range.json``, and the later ones
take what stands there.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import torch

from data.base import Dataset
from data.coco import COCO
from data.demo import Demo
from data.folder import Folder
from data.folder.sources import NEGATIVES
from data.voc import VOC
from tool import distributed
from tool.cli import AUTO, Parser, Settings, at_least, import_named, pick_device
from tool.cores import cores
from tool.errors import InputError
from tool.reader import read_json
from tool.session import Session
from tool.writer import write_json

DATASETS: dict[str, type[Dataset]] = {d.name: d for d in (VOC, COCO, Demo, Folder)}
USUAL_ROOTS = ", ".join(f"{d.default_root} ({d.name})" for d in DATASETS.values())
# How --help shows the possible values; argparse's `choices` would refuse a class of the user's own.
DATASET_CHOICES = "{" + ",".join([*sorted(DATASETS), "module:Class"]) + "}"
MOST_WORKERS = 32  # processes that read pictures, unless more are asked for
READING = "value_range.json"  # in a session
FORM = {"bands?": (int, int, int), "value_range?": (float, float), "auto?": bool}


def make_parser(docstring: str, *names: str) -> Parser:
    """Return a parser with what all step scripts have, and flags of :data:`tool.cli.SHARED`."""
    parser = Parser(docstring)
    parser.add_shared("session_name", "device", *names)
    workers = max(1, min(MOST_WORKERS, cores() // distributed.number("LOCAL_WORLD_SIZE", 1)))
    parser.add_shared("num_workers", default=workers)
    add_dataset_flags(parser)
    return parser


def add_dataset_flags(parser: Parser) -> None:
    """Add ``--dataset``, ``--dataset_root``, and how its pictures are read."""
    parser.add_deciding("--dataset", metavar=DATASET_CHOICES, default="voc", help="what to read")
    parser.add_argument("--dataset_root", help=f"its folder; None is the usual one: {USUAL_ROOTS}")
    add_folder_flags(parser)


def add_folder_flags(parser: Parser) -> None:
    """Add what tells how pictures and labels of the user's own are read."""
    parser.add_deciding(
        "--negative_class",
        help="what --dataset folder calls pictures without a class, in a table or as a folder; "
        f"None is {', '.join(NEGATIVES)}",
    )
    parser.add_deciding(
        "--bands",
        type=at_least(1),
        nargs=3,
        metavar=("R", "G", "B"),
        help="bands of TIFFs that are red, green and blue, counted from 1; None are their colours",
    )
    parser.add_deciding(
        "--value_range",
        action=_ValueRange,
        nargs="+",
        metavar="LOW HIGH",
        help="values that are black and white, for pictures of more than 8 bits or of real "
        "numbers; auto takes percentiles 1 and 99 of the list; None: 0 to 255, or to 65535",
    )


def open_dataset(args: Settings) -> Dataset:
    """Return the dataset that the flags of :func:`add_dataset_flags` name.

    Raises:
        InputError: it is none, or ``--negative_class`` is given for another one than ``folder``.
    """
    kind = dataset_class(args.dataset)
    if kind is Folder:
        dataset = Folder(args.dataset_root, args.negative_class)
    elif args.negative_class:
        raise InputError(f"--negative_class is for --dataset folder, not for {args.dataset}.")
    else:
        dataset = kind(args.dataset_root)
    _agree_on_reading(dataset, args)
    return dataset


def _agree_on_reading(dataset: Dataset, args: Settings) -> None:
    """Set how a dataset reads its pictures: as the flags say, and as its session did before.

    ``args.bands`` and ``args.value_range`` become those of the session where they are None; others
    than the session's raise an InputError. A program without ``--session_name`` reads as its flags
    say.
    """
    path = Path(args.session_name) / READING if hasattr(args, "session_name") else None
    known = read_json(path, "Delete it.", FORM, {}) if path else {}
    values = known.get("value_range")
    noted = {"bands": known.get("bands"), "value_range": AUTO if known.get("auto") else values}
    for name, value in noted.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
        elif known and getattr(args, name) != value:
            raise InputError(
                f"The pictures of this session are read with another --{name}, see {path}. Leave "
                "the flag out, or give another --session_name."
            )
    dataset.bands, dataset.value_range = args.bands, values or args.value_range


def open_session(args: Settings, program: str) -> tuple[Session, torch.device, Dataset]:
    """Return the session of a step script, the device and the dataset that its flags name."""
    session = Session(args.session_name, program, args)
    device = pick_device(args.device, getattr(args, "tf32", True))
    dataset = open_dataset(args)
    session.notes.append(partial(note_reading, dataset, args))
    return session, device, dataset


def note_reading(dataset: Dataset, args: Settings) -> None:
    """Write how a session's pictures are read, if it is not as usual and nobody did."""
    path = Path(args.session_name) / READING
    if any(dataset.reading.values()) and dataset.value_range != AUTO and not path.exists():
        write_json(path, {**dataset.reading, "auto": args.value_range == AUTO})


class _ValueRange(argparse.Action):
    """``auto``, or two numbers of which the first is the smaller one."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            low, high = value = [float(word) for word in values]
            fits = -math.inf < low < high < math.inf
        except ValueError:
            value, fits = AUTO, values == [AUTO]
        if not fits:
            parser.error(f"{option_string} takes two numbers, the smaller one first, or {AUTO}")
        setattr(namespace, self.dest, value)


def dataset_class(name: str) -> type[Dataset]:
    """Return the class that ``--dataset`` names.

    The name is a key of DATASETS, or ``module:Class`` such as
    ``examples.own_dataset:ClassFolders``: a subclass of :class:`data.base.Dataset` in a module that
    Python can import. Anything else raises an InputError.
    """
    if name in DATASETS:
        return DATASETS[name]
    module_name, colon, class_name = name.partition(":")
    found = getattr(import_named("--dataset", module_name), class_name, None) if colon else None
    if not (isinstance(found, type) and issubclass(found, Dataset)):
        raise InputError(
            f"There is no --dataset {name}. Choose one of {', '.join(sorted(DATASETS))}, or name a "
            "subclass of data.base.Dataset as module:Class, such as "
            "examples.own_dataset:ClassFolders."
        )
    return found
