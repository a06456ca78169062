"""Preparation of MS COCO at full size, without MS COCO: time and peak memory.

    python -m benchmarks.coco_preparation [--folder /tmp] [--no-plain]

Makes an annotation file like instances_train2014.json in a temporary folder (82,783 pictures,
600,000 annotations, about 450 MB), reads it as ``python -m data.coco`` does and writes lists and
labels, with the parts of that work below it: passing over the file, building its annotations as
Python objects, and what remains, encoding the regions. Plain ``json.load`` stands beside it; then
the dataset is opened as a step program does, and the masks of some pictures are drawn. Every row is
a fresh process; memory is the peak beyond what it starts with.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import in_fresh_process, peak_bytes, table
from data.coco import COCO
from data.coco.__main__ import labels_of, write_prepared
from data.coco.annotations import read_annotations, read_items
from data.coco.dataset import PUBLISHED_COUNTS, PUBLISHED_PICTURES
from data.coco.masks import draw_files

SPLIT = "train"
PICTURES, ANNOTATED = PUBLISHED_PICTURES[SPLIT], PUBLISHED_COUNTS[SPLIT]
ANNOTATIONS = 600_000
OUTLINES = 3000  # different ones; the file repeats them
WIDTH, HEIGHT = 640, 480
DRAWN = 300  # pictures whose masks are drawn


def outline(rng: random.Random) -> str:
    """Return polygons as JSON; their length is spread as widely as COCO's."""
    x, y = rng.uniform(60, WIDTH - 60), rng.uniform(60, HEIGHT - 60)
    radius, corners = rng.uniform(5, 120), int(rng.lognormvariate(3.4, 0.7)) + 3
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radii = radius * np.array([rng.uniform(0.6, 1) for _ in angles])
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
    points = points.clip(0, [WIDTH, HEIGHT]).round(2)
    return json.dumps([points.ravel().tolist()])


def write_annotations(path: Path) -> None:
    """Write the file, in the published order: annotations are not grouped by picture."""
    rng = random.Random(0)
    outlines = [outline(rng) for _ in range(OUTLINES)]
    numbers = sorted(rng.sample(range(1, 581_930), PICTURES))
    owners = rng.sample(numbers, ANNOTATED)  # each at least once, the others by chance
    owners += rng.choices(owners, k=ANNOTATIONS - ANNOTATED)
    rng.shuffle(owners)
    # COCO's ids have gaps, ours need not be in the same places
    ids = sorted(rng.sample(range(1, 91), len(COCO.class_names)))
    url = "http://images.cocodataset.org/train2014/COCO_train2014_{:012d}.jpg"
    path.parent.mkdir(parents=True)
    with open(path, "w") as file:
        file.write('{"info": {"description": "synthetic"}, "images": [')
        for place, number in enumerate(numbers):
            file.write(", " * (place > 0))
            file.write(
                f'{{"license": 5, "file_name": "COCO_train2014_{number:012d}.jpg", "coco_url": '
                f'"{url.format(number)}", "height": {HEIGHT}, "width": {WIDTH}, "date_captured": '
                f'"2013-11-14 16:28:13", "flickr_url": "{url.format(number)}", "id": {number}}}'
            )
        file.write('], "licenses": [], "annotations": [')
        for number, owner in enumerate(owners, 1):
            file.write(", " * (number > 1))
            file.write(
                f'{{"segmentation": {rng.choice(outlines)}, "area": 702.1, "iscrowd": 0, '
                f'"image_id": {owner}, "bbox": [473.07, 395.93, 38.65, 28.67], "category_id": '
                f'{rng.choice(ids)}, "id": {number}}}'
            )
        entries = [{"id": i, "name": n} for i, n in zip(ids, COCO.class_names, strict=True)]
        file.write(f'], "categories": {json.dumps(entries)}}}')


def annotation_file(root: Path) -> Path:
    return root / f"annotations/instances_{SPLIT}2014.json"


def lists_and_labels(root: Path) -> int:
    """Do what the preparation does before and after the masks; return the number of pictures."""
    pictures = [p for p in read_annotations(annotation_file(root), SPLIT) if p.regions]
    write_prepared(COCO(root), SPLIT, [p.image_id for p in pictures], labels_of(pictures))
    return len(pictures)


def passes(root: Path) -> int:
    """Go through the file twice, for the two short lists."""
    path = annotation_file(root)
    categories = sum(1 for _ in read_items(path, "categories"))
    return categories * sum(1 for _ in read_items(path, "images")) // len(COCO.class_names)


def objects(root: Path) -> int:
    """Go through the file once and build every annotation as Python objects, encoding none."""
    return sum(1 for _ in read_items(annotation_file(root), "annotations"))


def plain(root: Path) -> int:
    """Do no more than load the file as Python objects, and count its annotated pictures."""
    with open(annotation_file(root)) as file:
        content = json.load(file)
    return len({annotation["image_id"] for annotation in content["annotations"]})


def open_dataset(root: Path) -> int:
    """Read list and labels as every step program does."""
    coco = COCO(root)
    return len(coco.labels(coco.ids(SPLIT)))


def masks(root: Path) -> int:
    """Draw some masks of blank pictures of the right size; return microseconds for each."""
    coco = COCO(root)
    pictures = [p for p in read_annotations(annotation_file(root), SPLIT) if p.regions][:DRAWN]
    blank = root / "blank.jpg"
    Image.new("RGB", (WIDTH, HEIGHT)).save(blank)
    for picture in pictures:
        path = coco.image_path(picture.image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(blank)
    start = time.perf_counter()
    draw_files(coco, pictures, "keep")
    return round((time.perf_counter() - start) / DRAWN * 1e6)


def measure(function: Callable[[Path], int], root: Path) -> tuple[float, int, int]:
    """Return seconds, peak bytes and the result of ``function(root)``."""
    result = []
    start = time.perf_counter()
    memory = peak_bytes(lambda: result.append(function(root)), torch.device("cpu"))
    return time.perf_counter() - start, memory, result[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument(
        "--plain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="json.load too, which needs several GB",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        path = annotation_file(root)
        write_annotations(path)
        work = {
            "lists and labels": (lists_and_labels, ANNOTATED),
            "  two passes for the short lists": (passes, PICTURES),
            "  one pass that builds annotations": (objects, ANNOTATIONS),
            "the dataset, opened": (open_dataset, ANNOTATED),
        }
        if args.plain:
            work["json.load alone"] = (plain, ANNOTATED)
        rows = []
        for name, (function, expected) in work.items():
            seconds, memory, found = in_fresh_process(measure, function, root)
            if found != expected:
                raise SystemExit(f"{name}: found {found}, not {expected}")
            rows.append([name, f"{seconds:.1f}", f"{memory / 2**20:.0f}"])
        per_mask = in_fresh_process(masks, root) / 1e6
        print(f"{path.stat().st_size / 1e6:.0f} MB, {ANNOTATIONS:,} annotations")
        print(table(["", "seconds", "MiB"], rows))
        print(
            f"masks: {per_mask * 1e3:.1f} ms each, so {per_mask * 122_218 / 60:.0f} minutes of one "
            "core for the 122,218 of train and val"
        )


if __name__ == "__main__":
    main()
