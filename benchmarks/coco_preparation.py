"""Preparation of MS COCO at full size, without MS COCO: time and peak memory.

    python -m benchmarks.coco_preparation [--folder /tmp] [--no-plain]

Makes an annotation file like instances_train2014.json in a temporary folder (82,783 pictures,
600,000 annotations, about 450 MB), reads lists and labels from it as ``python -m data.coco`` does,
and with plain ``json.load`` beside it; then opens the dataset as a step program does, and draws the
masks of some pictures. Every row is a fresh process; memory is the peak beyond what it starts with.
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
from data.coco import (
    COCO,
    PUBLISHED_COUNTS,
    PUBLISHED_PICTURES,
    Drawing,
    draw_files,
    read_annotations,
    write_prepared,
)

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


def lists_and_labels(root: Path) -> int:
    """Do what the preparation does before and after the masks; return the number of pictures."""
    annotations = read_annotations(root / "annotations/instances_train2014.json", SPLIT)
    write_prepared(COCO(root), SPLIT, annotations.ids, annotations.labels())
    return len(annotations.ids)


def plain(root: Path) -> int:
    """Do no more than load the file as Python objects, and count its annotated pictures."""
    with open(root / "annotations/instances_train2014.json") as file:
        content = json.load(file)
    return len({annotation["image_id"] for annotation in content["annotations"]})


def open_dataset(root: Path) -> int:
    """Read list and labels as every step program does."""
    coco = COCO(root)
    return len(coco.labels(coco.ids(SPLIT)))


def masks(root: Path) -> int:
    """Draw some masks; the pictures are blank ones of the right size."""
    path = root / "annotations/instances_train2014.json"
    annotations, coco = read_annotations(path, SPLIT), COCO(root)
    picture = root / "blank.jpg"
    Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
    drawings = [
        Drawing(picture, coco.mask_path(image_id), HEIGHT, WIDTH, annotations.of(n))
        for n, image_id in enumerate(annotations.ids[:DRAWN])
    ]
    start = time.perf_counter()
    draw_files(drawings, path, "keep")
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
        path = root / "annotations/instances_train2014.json"
        write_annotations(path)
        work = {"lists and labels": lists_and_labels, "the dataset, opened": open_dataset}
        if args.plain:
            work["json.load alone"] = plain
        rows = []
        for name, function in work.items():
            seconds, memory, pictures = in_fresh_process(measure, function, root)
            if pictures != ANNOTATED:
                raise SystemExit(f"{name}: {pictures} annotated pictures, not {ANNOTATED}")
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
