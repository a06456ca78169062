"""The preparation of MS COCO 2014: lists, image labels and masks from the annotation files.

    python -m data.coco [--dataset_root "../ms_coco_14&15"] [--crowd keep] [--num_workers 8]

Reads   <root>/annotations/instances_{train,val}2014.json, the pictures in <root>/images/train2014
        and val2014 (or <root>/train2014 and val2014)
Writes  <root>/prepared/: masks/<id>.png, then {train,val}_labels.csv, {train,val}.txt and
        train_sample.txt (1,000 pictures of train, for validation while training)

Takes a minute and 3 GB of memory for an annotation file, and 10 minutes of one core for the
masks. Masks that exist are kept, so running the same command again finishes what is left. A list
appears when all of its masks are there; nothing but this preparation ever reads the annotation
files.

Regions that are marked as a crowd (``iscrowd``: a heap of bananas, the people in a stadium) are
outlined coarsely. ``--crowd keep`` draws them as their class: an image label counts them too, and a
label without a region would make no sense. ``ignore`` draws them as 255, which no evaluation
judges; ``drop`` leaves them out, so that their pixels are background. Lists and labels are the same
in all three.
"""

import logging
import shlex
from functools import partial
from pathlib import Path

from data.coco.annotations import read_annotations
from data.coco.dataset import COCO, SPLITS
from data.coco.masks import CROWD, Picture, draw_file
from data.download import COCO_ARCHIVES, fetch
from data.loaders import for_each
from tool.cli import Parser, Words
from tool.cores import cores
from tool.reader import check_exist, regular
from tool.record import Outputs
from tool.run import run
from tool.writer import claim, link, remove_own, write_lines, write_own, write_table

SAMPLE = 1000  # pictures in train_sample

log = logging.getLogger("data.coco")


def link_folders(root: Path, target: Path) -> Path:
    """Make a root of links to those folders of one that cannot be written; or an InputError."""
    for name in ("annotations", "images", "train2014", "val2014"):
        if (root / name).exists() and not (target / name).exists():
            link(root / name, target / name)
    return target


def annotated_pictures(coco: COCO, split: str, allow_missing: bool) -> dict[str, Picture]:
    """Return the pictures of a split that have regions, by their ids, of its annotation file.

    A picture whose file is missing is an error, or left out where that is allowed.
    """
    path = coco.root / "annotations" / f"instances_{split}2014.json"
    regular(
        path,
        f"There is no {path}. Unpack annotations_trainval2014.zip there, or name the others with "
        "--splits.",
    )
    log.info("%-5s reading %s", split, path)
    pictures = [picture for picture in read_annotations(path, split) if picture.regions]
    there = {p.image_id: p for p in pictures if coco.image_path(p.image_id).is_file()}
    if not (allow_missing and there):
        files = [coco.image_path(picture.image_id) for picture in pictures]
        remedy = "Complete them, or go on with those that are there: --allow_missing"
        check_exist(files, f"pictures of {split}2014", remedy)
    return there


def prepare(
    coco: COCO, split: str, crowd: str, allow_missing: bool, restart: bool, num_workers: int
) -> None:
    """Write masks, labels and list of one split, in this order; of train, its sample too.

    Masks that exist are kept where their regions are still the same. Annotations or pictures that
    are not as they must be raise an InputError.
    """
    pictures = annotated_pictures(coco, split, allow_missing)
    ids, folder = list(pictures), coco.prepared / "masks"
    sources = {"regions": [f"{crowd} {picture}" for picture in pictures.values()]}
    masks = Outputs(coco.prepared, folder, "data.coco", {}, coco.all_names, ids, ".png", sources)
    todo = [pictures[image_id] for image_id in masks.open(restart)]
    if todo:  # a list appears when all of its masks are there
        remove_own(coco.prepared / f"{split}.txt")
    for_each(todo, partial(draw_file, coco, crowd), num_workers, f"masks of {split}2014")
    masks.finish()
    rows, total = [("id", "classes")], 0
    for image_id, picture in pictures.items():
        names = {coco.all_names[region.class_id] for region in picture.regions}
        rows.append((image_id, "; ".join(sorted(names))))
        total += len(names)
    write_table(coco.prepared / f"{split}_labels.csv", rows)
    if split == "train":
        sample = ids[:: max(1, len(ids) // SAMPLE)][:SAMPLE]
        write_lines(coco.prepared / "train_sample.txt", sample, write_own)
    write_lines(coco.prepared / f"{split}.txt", ids, write_own)
    log.info("%-5s %6d pictures, %.2f classes a picture", split, len(ids), total / len(ids))


def main(arguments: Words = None) -> None:
    """Prepare MS COCO."""
    parser = Parser(__doc__, prog="python -m data.coco")
    add = parser.add_argument
    add("--dataset_root", default=COCO.default_root, help="the folder of MS COCO")
    add(
        "--link_root",
        type=Path,
        help="where --dataset_root cannot be written: a folder to make, with links to what is "
        "there; it is the --dataset_root of all that follows",
    )
    add("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    add("--crowd", choices=CROWD, default=CROWD[0], help="what crowds become, see above (keep)")
    add("--allow_missing", action="store_true", help="leave out pictures that are not there")
    parser.add_shared("num_workers", default=min(8, cores()))
    parser.add_shared("restart")
    add("--download", action="store_true", help="fetch what is missing of the 20 GB first")
    args = parser.parse_args(arguments)

    if args.download:
        fetch(COCO_ARCHIVES, Path(args.dataset_root).absolute())
    coco = COCO(args.dataset_root)
    if args.link_root:
        coco = COCO(link_folders(coco.root, args.link_root))
    with claim(coco.prepared / ".lock", f"writing {coco.prepared}"):  # before any work
        for split in args.splits:
            prepare(coco, split, args.crowd, args.allow_missing, args.restart, args.num_workers)
    log.info("prepared; the programs read it with --dataset_root %s", shlex.quote(str(coco.root)))


if __name__ == "__main__":
    run(main)
