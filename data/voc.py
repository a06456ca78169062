"""PASCAL VOC 2012, and the preparation of its ``trainaug`` list.

    python -m data.voc [--dataset_root VOCdevkit/VOC2012] [--sbd_root benchmark_RELEASE]
    python -m data.voc --dataset_root VOCdevkit/VOC2012 --download

Reads the devkit (and SBD's two lists where the devkit has no list of its own), checks lists,
pictures and labels, and writes ``ImageSets/Segmentation/trainaug.txt`` if there is none yet.
Takes some seconds. Only names are taken from SBD, never its masks. ``--download`` fetches both, 3.4
GB, and ``--halve FOLDER`` writes the lists' pictures at half size.
"""

import argparse
import logging
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from data.base import Dataset, check_exist, labels_from_names
from data.download import fetch, voc_archives
from data.halve import halve
from data.lists import find_list, read_list, visible
from tool.cli import Parser, at_least
from tool.cores import cores
from tool.errors import InputError
from tool.reader import Damaged, decoding, read_bytes
from tool.run import run
from tool.writer import write_lines

LISTS = "ImageSets/Segmentation"
# Number of ids in the published lists. Subsets are welcome, so a difference is only reported.
PUBLISHED_COUNTS = {"train": 1464, "val": 1449, "trainaug": 10582}
# Names under which trainaug circulates, below the root.
TRAINAUG_FILES = (
    f"{LISTS}/trainaug.txt",
    f"{LISTS}/train_aug.txt",
    "ImageSets/SegmentationAug/trainaug.txt",
    "ImageSets/SegmentationAug/train_aug.txt",
)
LARGEST_ANNOTATION = 1 << 24  # bytes; the devkit's have some thousand

log = logging.getLogger(__name__)


class VOC(Dataset):
    """The devkit's folder: JPEGImages, SegmentationClass, Annotations, ImageSets."""

    name = "voc"
    default_root = "../PascalVOC2012/VOCdevkit/VOC2012"
    train_list = "trainaug"
    masks_are_optional = False
    class_names = (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
        *("train", "tvmonitor"),
    )

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of train, val, trainaug, or any list in ImageSets/Segmentation."""
        if list_name == "trainaug":
            ids = find_trainaug(self.root)
        else:
            ids = read_list(find_list(self.root / LISTS, list_name))
        published = PUBLISHED_COUNTS.get(list_name)
        if published and len(ids) != published:
            log.warning("the list %s has %d ids, the published %d", list_name, len(ids), published)
        return ids

    def image_path(self, image_id: str) -> Path:
        """Return JPEGImages/<id>.jpg."""
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Return SegmentationClass/<id>.png."""
        return self.root / "SegmentationClass" / f"{image_id}.png"

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return the classes that any object of the annotation XML names, difficult ones too."""
        paths = [self.root / "Annotations" / f"{image_id}.xml" for image_id in ids]
        check_exist(paths, "annotations", "Complete the devkit, or take the ids off the list")
        return labels_from_names([_objects(path) for path in paths], ids, self)


def _objects(path: Path) -> set[str]:
    """Return the names of all objects in one annotation file."""
    content = read_bytes(path, LARGEST_ANNOTATION)
    with decoding(path, "Copy it again."):
        root = ElementTree.fromstring(content)
        names = {(element.text or "").strip() for element in root.findall("object/name")}
        if root.tag != "annotation" or not names:
            raise Damaged("it is no annotation that names an object")
    return names


def trainaug_file(root: Path) -> Path | None:
    """Return the list trainaug where the user has it as a file."""
    paths = (root / name for name in TRAINAUG_FILES)
    return next((path for path in paths if os.path.isfile(path)), None)


def find_trainaug(root: Path, sbd_root: Path | None = None) -> list[str]:
    """Return the ids of trainaug from what the user has.

    In this order: a list file; the names in SegmentationClassAug without val; the devkit's train
    and SBD's train and val without the devkit's val. Nothing of that, or a list that is empty,
    contains pictures of val or names hidden files, raises an InputError.
    """
    command = f"python -m data.voc --dataset_root {shlex.quote(str(root))}"
    val_file = root / LISTS / "val.txt"
    path = trainaug_file(root)
    if path:
        ids = read_list(path)
        both = set(ids).intersection(read_list(val_file) if os.path.isfile(val_file) else ())
        if both or not ids:
            fault = (
                f"contains {len(both)} pictures of val, such as {min(both)}" if both else "is empty"
            )
            raise InputError(f"{path} {fault}. Delete the file and prepare it anew: {command}")
        return ids
    masks = root / "SegmentationClassAug"
    if os.path.isdir(masks):
        names = (path.stem for path in visible(masks) if path.suffix.lower() == ".png")
        return _without_val(names, val_file, masks)
    if sbd_root is not None:
        folders = (sbd_root, sbd_root / "dataset", sbd_root / "benchmark_RELEASE" / "dataset")
        folder = next((f for f in folders if os.path.isfile(f / "train.txt")), folders[1])
        parts = (root / LISTS / "train.txt", folder / "train.txt", folder / "val.txt")
        ids = (image_id for part in parts for image_id in read_list(part))
        return _without_val(ids, val_file, folder)
    raise InputError(
        f"The list trainaug (10,582 ids) is not part of the VOC devkit. Put trainaug.txt into "
        f"{root / LISTS}, or a folder SegmentationClassAug into {root}, or make the list from SBD: "
        f"{command} --sbd_root PATH_TO_SBD"
    )


def _without_val(ids: Iterable[str], val_file: Path, source: Path) -> list[str]:
    left = sorted(set(ids) - set(read_list(val_file)))
    if not left:
        raise InputError(f"{source} has no picture but those of val. Complete it.")
    return left


def main(arguments: list[str] | None = None) -> None:
    """Check the devkit and write trainaug.txt where there is none."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_root", default=VOC.default_root, help="the folder VOC2012")
    add("--sbd_root", type=Path, help="the folder of SBD that holds dataset/")
    add("--download", action="store_true", help="fetch what is missing: the devkit, SBD's lists")
    add("--halve", type=Path, help="folder for all at half size")
    add("--num_workers", type=at_least(0), default=cores(), help="processes that halve")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    if args.download:
        root = Path(args.dataset_root).absolute()
        archives = voc_archives(root.name)
        fetch(archives if trainaug_file(root) is None else archives[:1], root.parent)
        args.sbd_root = args.sbd_root or root.parent / "sbd"
    voc = VOC(args.dataset_root)
    path = trainaug_file(voc.root)
    ids = find_trainaug(voc.root, args.sbd_root)
    mend = f"Complete JPEGImages, or delete {path} and prepare it anew" if path else "Complete them"
    check_exist([voc.image_path(image_id) for image_id in ids], "pictures", mend)
    if path is None:
        voc.labels(ids)  # a list is written when everything that it names is there
        path = voc.root / TRAINAUG_FILES[0]
        write_lines(path, ids)
        log.info("%s written", path)
    lists = {}
    for list_name in PUBLISHED_COUNTS:
        lists[list_name] = ids = voc.ids(list_name)
        voc.check_pictures(ids)
        mean = voc.labels(ids).sum() / len(ids)
        log.info("%-8s %6d pictures, %.2f classes a picture", list_name, len(ids), mean)
    if args.halve:
        halve(voc, lists, args.halve, args.num_workers)


if __name__ == "__main__":
    run(main)
