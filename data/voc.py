"""PASCAL VOC 2012, and the preparation of its ``trainaug`` list.

    python -m data.voc [--dataset_root VOCdevkit/VOC2012] [--sbd_root benchmark_RELEASE]
    python -m data.voc --dataset_root VOCdevkit/VOC2012 --download

Reads the devkit (and SBD's two lists where the devkit has no list of its own), checks lists,
pictures and labels, and writes ``ImageSets/Segmentation/trainaug.txt`` if there is none yet.
Takes some seconds. Only names are taken from SBD, never its masks. ``--download`` fetches both, 3.4
GB, and ``--halve FOLDER`` writes the lists' pictures at half size.
"""

import logging
import os
import shlex
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from data.base import Dataset
from data.download import fetch, voc_archives
from data.lists import find_list, read_list, visible
from data.loaders import for_each
from tool.cli import Parser, Words
from tool.cores import cores
from tool.errors import InputError
from tool.pictures import check_label, read_mask, save_label
from tool.reader import Damaged, decoding, read_bytes, regular
from tool.record import Outputs
from tool.run import run
from tool.writer import own_folder, write_atomic, write_lines, write_own

CLASS_NAMES = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
LISTS = "ImageSets/Segmentation"
PUBLISHED_COUNTS = {"train": 1464, "val": 1449, "trainaug": 10582}  # subsets are welcome
# Names under which trainaug circulates, below the root.
TRAINAUG_FILES = (
    f"{LISTS}/trainaug.txt",
    f"{LISTS}/train_aug.txt",
    "ImageSets/SegmentationAug/trainaug.txt",
    "ImageSets/SegmentationAug/train_aug.txt",
)
QUALITY = 95  # of the JPEGs at half size

log = logging.getLogger(__name__)


class VOC(Dataset):
    """The devkit's folder: JPEGImages, SegmentationClass, Annotations, ImageSets."""

    name = "voc"
    default_root = "../PascalVOC2012/VOCdevkit/VOC2012"
    train_list = "trainaug"
    masks_are_optional = False
    class_names = tuple(CLASS_NAMES.split(", "))

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of train, val, trainaug, or any list in ImageSets/Segmentation."""
        if list_name == "trainaug":
            return find_trainaug(self.root)
        return read_list(find_list(self.root / LISTS, list_name))

    def image_path(self, image_id: str) -> Path:
        """Return JPEGImages/<id>.jpg."""
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Return SegmentationClass/<id>.png."""
        return self.root / "SegmentationClass" / f"{image_id}.png"

    def annotation_path(self, image_id: str) -> Path:
        """Return Annotations/<id>.xml."""
        return self.root / "Annotations" / f"{image_id}.xml"

    def names_of(self, image_id: str) -> set[str]:
        """Return the classes that any object of the annotation XML names, difficult ones too."""
        path = self.annotation_path(image_id)
        missing = f"There is no {path}. Complete the devkit, or take the picture off the list."
        content = read_bytes(regular(path, missing))
        with decoding(path, "Copy it again."):
            root = ElementTree.fromstring(content)
            names = {(element.text or "").strip() for element in root.findall("object/name")}
            if root.tag != "annotation" or not names:
                raise Damaged("it is no annotation that names an object")
        return names


def trainaug_file(root: Path) -> Path | None:
    """Return the list trainaug where the user has it as a file."""
    paths = (root / name for name in TRAINAUG_FILES)
    return next(filter(os.path.isfile, paths), None)


def find_trainaug(root: Path, sbd_root: Path | None = None) -> list[str]:
    """Return the ids of trainaug from what the user has.

    In this order: a list file; the names in SegmentationClassAug without val; the devkit's train
    and SBD's train and val without the devkit's val. Nothing of that, or a list that is empty or
    contains pictures of val, raises an InputError.
    """
    command = f"python -m data.voc --dataset_root {shlex.quote(str(root))}"
    val = set(read_list(root / LISTS / "val.txt"))
    source, masks = trainaug_file(root), root / "SegmentationClassAug"
    if source:
        ids = read_list(source)
    elif os.path.isdir(masks):
        source = masks
        names = {path.stem for path in visible(masks) if path.suffix.lower() == ".png"}
        ids = sorted(names - val)
    elif sbd_root:
        source = sbd_root / "dataset"
        parts = (root / LISTS / "train.txt", source / "train.txt", source / "val.txt")
        ids = sorted({image_id for part in parts for image_id in read_list(part)} - val)
    else:
        raise InputError(
            f"The list trainaug (10,582 ids) is not part of the VOC devkit. Put trainaug.txt into "
            f"{root / LISTS}, or a folder SegmentationClassAug into {root}, or make the list from "
            f"SBD: {command} --sbd_root PATH_TO_SBD"
        )
    if not ids or not val.isdisjoint(ids):
        raise InputError(
            f"{source} names no picture, or some of val. Complete it, or take it away and prepare "
            f"the list anew: {command}"
        )
    return ids


def halve(voc: VOC, lists: dict[str, list[str]], folder: Path, num_workers: int) -> None:
    """Write the pictures of some lists, and these, at half size in the devkit's layout.

    Pictures are reduced by the Lanczos filter and masks to the nearest pixel; sides are rounded up.
    Annotations and lists are copied; the lists are written last. What is there is kept as long as
    its originals are the same.

    Raises:
        InputError: the folder is the devkit's own or somebody else's, or a mask has another size
            than its picture.
    """
    if folder.resolve() == voc.root.resolve():
        raise InputError(f"--halve {folder} is the folder of the originals. Name another one.")
    own_folder(folder, "data.voc")
    ids = list(dict.fromkeys(image_id for ids in lists.values() for image_id in ids))
    notes = [voc.annotation_path(image_id) for image_id in ids]
    masks = [voc.mask_path(image_id) for image_id in ids]
    sources = {
        "picture": [voc.image_path(image_id) for image_id in ids],
        "annotation": notes,
        "mask": [m if m.is_file() else note for m, note in zip(masks, notes, strict=True)],
    }
    half = VOC(folder)
    place = folder / "Annotations"  # the last file of a picture that is written
    halved = Outputs(folder, place, "data.voc", {}, voc.all_names, ids, ".xml", sources)
    missing = halved.open(restart=False)
    for_each(missing, partial(_halve_one, voc, half), num_workers, "halving")
    halved.finish()
    for name, of_list in lists.items():
        write_lines(folder / LISTS / f"{name}.txt", of_list, write_own)


def _halve_one(voc: VOC, half: VOC, image_id: str) -> None:
    image = voc.read(image_id)
    size = tuple(-(-side // 2) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    path = half.image_path(image_id)
    write_atomic(path, lambda file: small.save(file, "JPEG", quality=QUALITY))
    mask_path = voc.mask_path(image_id)
    if mask_path.is_file():
        mask = read_mask(mask_path)
        check_label(mask_path, mask, voc.num_classes, image.size)
        save_label(half.mask_path(image_id), mask, size[::-1])
    annotation = voc.annotation_path(image_id).read_bytes()
    write_atomic(half.annotation_path(image_id), lambda file: file.write(annotation))


def main(arguments: Words = None) -> None:
    """Check the devkit and write trainaug.txt where there is none."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset_root", default=VOC.default_root, help="the folder VOC2012")
    add("--sbd_root", type=Path, help="the folder of SBD that holds dataset/")
    add("--download", action="store_true", help="fetch what is missing: the devkit, SBD's lists")
    add("--halve", type=Path, help="folder for all at half size")
    parser.add_shared("num_workers", default=cores())
    args = parser.parse_args(arguments)

    if args.download:
        root = Path(args.dataset_root).absolute()
        archives = voc_archives(root.name)
        fetch(archives if trainaug_file(root) is None else archives[:1], root.parent)
        args.sbd_root = args.sbd_root or root.parent / "sbd"
    voc = VOC(args.dataset_root)
    if trainaug_file(voc.root) is None:
        ids = find_trainaug(voc.root, args.sbd_root)
        voc.check_pictures(ids)
        voc.labels(ids)  # a list is written when everything that it names is there
        path = voc.root / TRAINAUG_FILES[0]
        write_lines(path, ids)
        log.info("%s written", path)
    lists = {name: voc.picture_ids(name) for name in PUBLISHED_COUNTS}
    for name, ids in lists.items():
        mean = voc.labels(ids).sum() / len(ids)
        text = "%-8s %6d pictures (published: %d), %.2f classes a picture"
        log.info(text, name, len(ids), PUBLISHED_COUNTS[name], mean)
    if args.halve:
        halve(voc, lists, args.halve, args.num_workers)


if __name__ == "__main__":
    run(main)
