"""The table of datasets: ``--dataset`` names a row, or a class of the user's own."""

import argparse
import importlib

from data.base import Dataset
from data.coco import COCO
from data.demo import Demo
from data.folder import Folder
from data.voc import VOC
from tool.cli import Settings, StepParser
from tool.errors import InputError

DATASETS: dict[str, type[Dataset]] = {d.name: d for d in (VOC, COCO, Demo, Folder)}
# How --help shows the possible values; argparse's `choices` would refuse a class of the user's own.
DATASET_CHOICES = "{" + ",".join([*sorted(DATASETS), "module:Class"]) + "}"


def add_dataset_flags(parser: StepParser) -> None:
    """Add ``--dataset`` and ``--dataset_root``."""
    parser.add_deciding(
        "--dataset", type=dataset_name, metavar=DATASET_CHOICES, default="voc", help="what to read"
    )
    parser.add_argument(
        "--dataset_root", help="its folder; None is the dataset's usual place, see the README"
    )


def open_dataset(args: Settings) -> Dataset:
    """Return the dataset that ``--dataset`` and ``--dataset_root`` name."""
    return dataset_class(args.dataset)(args.dataset_root)


def dataset_class(name: str) -> type[Dataset]:
    """Return the class that ``--dataset`` names.

    Args:
        name: a key of DATASETS, or ``module:Class`` such as ``examples.own_dataset:ClassFolders``:
            a subclass of :class:`data.base.Dataset` in a module that Python can import.

    Raises:
        InputError: there is no such dataset, module or class, or the class is no dataset.
    """
    if name in DATASETS:
        return DATASETS[name]
    module_name, colon, class_name = name.partition(":")
    words = [*module_name.split("."), class_name]
    if not (colon and all(word.isidentifier() for word in words)):
        raise InputError(
            f"There is no dataset {name!r}. Choose one of {', '.join(sorted(DATASETS))}, or name a "
            "class of your own as module:Class, such as examples.own_dataset:ClassFolders."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses another one
        raise InputError(
            f"There is no module {module_name!r} for --dataset {name}. Write the path of its file "
            "with dots and without .py, from the folder of this project on."
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Dataset) and found is not Dataset):
        raise InputError(
            f"The module {module_name!r} of --dataset {name} has no subclass {class_name!r} of "
            "data.base.Dataset."
        )
    return found


def dataset_name(text: str) -> str:
    """Return ``text``, the type of the flag ``--dataset``: checked, and kept as it was written.

    Raises:
        argparse.ArgumentTypeError: :func:`dataset_class` finds nothing under that name.
    """
    try:
        dataset_class(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
