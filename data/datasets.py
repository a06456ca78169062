"""The table of datasets: ``--dataset`` names a row."""

from data.base import Dataset
from data.coco import COCO
from data.folder import Demo, Folder
from data.voc import VOC
from tool.cli import Settings, StepParser

DATASETS: dict[str, type[Dataset]] = {d.name: d for d in (VOC, COCO, Demo, Folder)}

__all__ = ["DATASETS", "Dataset", "add_dataset_flags", "open_dataset"]


def add_dataset_flags(parser: StepParser) -> None:
    """Add ``--dataset`` and ``--dataset_root``."""
    parser.add_deciding("--dataset", choices=sorted(DATASETS), default="voc", help="what to read")
    parser.add_argument(
        "--dataset_root", help="its folder; None is the dataset's usual place, see the README"
    )


def open_dataset(args: Settings) -> Dataset:
    """Return the dataset that ``--dataset`` and ``--dataset_root`` name."""
    return DATASETS[args.dataset](args.dataset_root)
