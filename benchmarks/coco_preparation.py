"""Preparation of MS COCO at full size, without MS COCO: time and peak memory.

    python -m benchmarks.coco_preparation

Makes an annotation file like instances_train2014.json in the folder of ``TMPDIR`` (82,783 pictures,
600,000 annotations, about 450 MB), and prepares it as ``python -m data.coco`` does. The first call
draws the masks of 300 pictures; the second one, which is timed, finds them there and makes lists
and labels. Plain ``json.load``, which needs several GB, stands beside it.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Bench, Call, program
from data.coco import COCO

PICTURES = 82_783
ANNOTATED = 82_081
ANNOTATIONS = 600_000
PRIME = 7919  # takes owners of annotations from all over the list
OUTLINES = 3000  # different ones; the file repeats them
WIDTH = 640
HEIGHT = 480
DRAWN = 300  # pictures whose masks are drawn
FILE = "annotations/instances_train2014.json"


def outline(rng: np.random.Generator) -> list[list[float]]:
    """Return a polygon of 28 corners in the mean."""
    corners = 3 + rng.poisson(25)
    return [rng.uniform(0, HEIGHT, 2 * corners).round(2).tolist()]


def file_name(number: int) -> str:
    """Return the published name of a picture."""
    return f"COCO_train2014_{number:012d}.jpg"


def write_dataset(root: Path) -> None:
    """Write annotations, not grouped by picture as in the published file, and DRAWN pictures."""
    rng = np.random.default_rng(0)
    outlines = [outline(rng) for _ in range(OUTLINES)]
    numbers = range(7, 7 * PICTURES + 1, 7)
    categories = [{"id": i, "name": name} for i, name in enumerate(COCO.class_names, 1)]
    images = [
        {"id": number, "file_name": file_name(number), "height": HEIGHT, "width": WIDTH}
        for number in numbers
    ]
    annotations = [
        {
            "id": number,
            "image_id": numbers[number * PRIME % ANNOTATED],
            "category_id": number % len(categories) + 1,
            "iscrowd": 0,
            "segmentation": outlines[number % OUTLINES],
        }
        for number in range(ANNOTATIONS)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    pictures = root / "images/train2014"
    pictures.mkdir(parents=True)
    (root / FILE).parent.mkdir()
    (root / FILE).write_text(json.dumps(content))
    for number in numbers[:DRAWN]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(pictures / file_name(number))


def plain(path: Path) -> Call:
    """Return what does no more than load the file as Python objects."""

    return lambda: torch.ones(len(json.loads(path.read_text())) // 3)


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, repeats=1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root)
        flags = ["--dataset_root", folder, "--splits", "train", "--allow_missing"]
        ours = partial(program, "data.coco.__main__", [*flags, "--num_workers", "0"])
        ways = {"ours": ours, "json.load alone": partial(plain, root / FILE)}
        bench.compare("COCO's annotations", ways)


if __name__ == "__main__":
    main()
