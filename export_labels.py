"""Labels in the format of an annotation tool or trainer, so that people mend errors alone.

Reads   <label_dir>/<id>.png for the pictures of a list
Writes  --out: a JSON (coco) or a folder (yolo, labelme, cvat, voc); cvat also as <name>.zip
Try     python export_labels.py --dataset folder --label_dir exp/pseudo_label --format cvat \\
            --out labels.zip

What was written is read again, by the reader of the format or as it does, and compared with the
labels. ``--out`` appears whole or not at all, and nothing that is there is overwritten.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.base import check_exist
from data.datasets import add_dataset_flags, open_dataset
from data.export import FORMATS, Labelled
from tool import cli
from tool.errors import InputError
from tool.outputs import settings_of
from tool.pictures import UNSURE, check_label, read_mask
from tool.progress import progress
from tool.run import run

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.StepParser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--label_dir", type=Path, required=True, help="folder of label PNGs")
    parser.add_argument("--list", help="list name or file; None is the training list")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="file or folder to write")
    parser.add_argument(
        "--polygons", action="store_true", help="for coco: outlines in place of run lengths"
    )
    parser.add_argument(
        "--epsilon",
        type=cli.number,
        default=0.0,
        help="distance in pixels that outlines may have from the exact ones, to have fewer points",
    )
    args = parser.parse_args(arguments)
    if args.polygons and args.format != "coco":
        parser.error("--polygons is for --format coco; yolo and labelme always have outlines")
    return args


class Labels:
    """The labels of a list, read one after the other, and their unsure pixels counted."""

    def __init__(self, dataset, ids: list[str], folder: Path) -> None:
        self.dataset, self.ids, self.folder = dataset, ids, folder
        self.unsure = self.pixels = 0

    def __iter__(self) -> Iterator[Labelled]:
        for image_id in progress(self.ids, len(self.ids), "labels"):
            path = self.folder / f"{image_id}.png"
            label = read_mask(path)
            check_label(path, label, self.dataset.num_classes)
            size = self.dataset.read(image_id).size
            if size != label.shape[::-1]:
                raise InputError(
                    f"{path} is {label.shape[1]}x{label.shape[0]}, its picture "
                    f"{size[0]}x{size[1]}. Make it again, or name another --label_dir."
                )
            self.unsure += int((label == UNSURE).sum())
            self.pixels += label.size
            yield Labelled(image_id, self.dataset.image_path(image_id), label)


def agreement(written: dict[str, np.ndarray], labels: Labels, keeps_unsure: bool) -> list[float]:
    """Return the IoU of every region, written and read again, with that of the label."""
    found = []
    for image_id in labels.ids:
        label = read_mask(labels.folder / f"{image_id}.png")
        if not keeps_unsure:
            label[label == UNSURE] = 0
        other = written.get(image_id, np.zeros_like(label))
        for key in np.unique(np.concatenate([label.ravel(), other.ravel()])).tolist():
            if key:
                both = ((label == key) & (other == key)).sum()
                found.append(float(both / ((label == key) | (other == key)).sum()))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Write the labels, read them again, and say how they agree."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    kind = FORMATS[args.format]
    if os.path.lexists(args.out):
        raise InputError(f"{args.out} is there already. Name another --out, or move it away.")
    dataset = open_dataset(args)
    ids = dataset.ids(args.list or dataset.train_list)
    dataset.check_pictures(ids)
    settings_of(args.label_dir, dataset.all_names)  # of these classes, and in this order
    mend = "Make them, or name their list with --list"
    check_exist([args.label_dir / f"{image_id}.png" for image_id in ids], "labels", mend)
    labels = Labels(dataset, ids, args.label_dir)
    names = list(dataset.all_names)

    zipped = args.format == "cvat" and args.out.suffix == ".zip"
    args.final = args.out.with_suffix("") if zipped else args.out  # what paths are relative to
    draft = args.out.with_name(f".{args.out.name}.{os.getpid()}.tmp")
    try:
        kind.write(labels, names, draft, args)
        ious = agreement(kind.read(draft, names), labels, kind.keeps_unsure)
        if zipped:
            packed = Path(shutil.make_archive(str(draft), "zip", draft))
            os.replace(packed, args.out)
        else:
            os.replace(draft, args.out)
    except OSError as error:
        raise InputError(f"{args.out} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    share = labels.unsure / max(1, labels.pixels)
    becomes = "stay 255" if kind.keeps_unsure else "become background"
    if labels.unsure:
        log.info("%.2f %% of the pixels are unsure and %s", 100 * share, becomes)
    if ious:
        log.info(
            "%d pictures, %d regions in %s; read again: mean IoU %.4f, worst %.4f",
            *(len(ids), len(ious), args.out, np.mean(ious), min(ious)),
        )
    else:
        log.info("%d pictures in %s, none with a class", len(ids), args.out)


if __name__ == "__main__":
    run(main)
