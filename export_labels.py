"""Labels in the format of an annotation tool or trainer, so that people correct errors alone.

Reads   <label_dir>/<id>.png for the pictures of a list
Writes  --out: a JSON (coco), a table (areas) or a folder (others); cvat also as <name>.zip
Try     python export_labels.py --dataset folder --label_dir exp/pseudo_label --format cvat \\
            --out labels.zip

``--out`` appears whole or not at all, and nothing that is there is overwritten.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from data.label_formats import FORMATS, Labelled, check_names
from tool import cli
from tool.reader import check_exist
from tool.record import settings_of
from tool.pictures import UNSURE, check_label, read_mask
from tool.progress import progress
from tool.run import run
from tool.writer import new

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--label_dir", type=Path, required=True, help="folder of label PNGs")
    parser.add_argument("--list", help="list name or file; None is the training list")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="file or folder to write")
    outlines = "for coco: outlines in place of run lengths"
    parser.add_argument("--polygons", action="store_true", help=outlines)
    fewer = "distance in pixels that outlines may have from the exact ones, to have fewer points"
    parser.add_argument("--epsilon", type=cli.number, default=0.0, help=fewer)
    args = parser.parse_args(arguments)
    if args.polygons and args.format != "coco":
        parser.error("--polygons is for --format coco; yolo and labelme always have outlines")
    return args


def labels_of(
    dataset: Dataset, ids: list[str], folder: Path, pixels: Counter
) -> Iterator[Labelled]:
    """Yield the labels of a list, and count their ``unsure`` pixels and ``all``."""
    for image_id in progress(ids, len(ids), "labels"):
        path = folder / f"{image_id}.png"
        label, picture = read_mask(path), dataset.read(image_id)
        check_label(path, label, dataset.num_classes, picture.size)
        pixels.update(unsure=np.count_nonzero(label == UNSURE), all=label.size)
        yield Labelled(image_id, dataset.image_path(image_id), label)


def pack(folder: Path) -> None:
    """Put a zip archive of a folder in its place."""
    with TemporaryDirectory() as elsewhere:
        packed = shutil.make_archive(f"{elsewhere}/labels", "zip", folder)
        shutil.rmtree(folder)
        shutil.move(packed, folder)


def main(arguments: cli.Words = None) -> None:
    """Write the labels, and say how many of their pixels are unsure."""
    args = parse_arguments(arguments)
    dataset = open_dataset(args)
    names = dataset.all_names
    check_names(args.format, names)
    ids = dataset.picture_ids(args.list or dataset.train_list)
    settings_of(args.label_dir, names)  # of these classes, and in this order
    remedy = "Make them, or name their list with --list"
    check_exist([args.label_dir / f"{image_id}.png" for image_id in ids], "labels", remedy)

    pixels = Counter()
    labels = labels_of(dataset, ids, args.label_dir, pixels)
    run_lengths = args.format == "coco" and not args.polygons
    with new(args.out) as draft:
        FORMATS[args.format](labels, names, draft, None if run_lengths else args.epsilon)
        if args.format == "cvat" and args.out.suffix == ".zip":
            pack(draft)
    log.info("%d labels in %s", len(ids), args.out)
    if pixels["unsure"]:
        become = "stay unsure" if args.format in ("voc", "areas") else "become background"
        share = 100 * pixels["unsure"] / pixels["all"]
        log.info("%.2f %% of the pixels are unsure and %s", share, become)


if __name__ == "__main__":
    run(main)
