"""The dataset of the demo: a folder of drawn pictures, made on first use."""

import json
from pathlib import Path

import numpy as np

from data.demo.drawing import CLASS_NAMES, make_picture
from data.folder import Folder
from data.lists import visible
from tool import distributed
from tool.errors import InputError
from tool.files import write_json, write_lines
from tool.pictures import save_label, save_rgb

NUM_TRAIN, NUM_VAL = 300, 80
MADE = {"version": 3, "train": NUM_TRAIN, "val": NUM_VAL}  # what made.json holds


class Demo(Folder):
    """The pictures that the project draws for itself, made on first use."""

    name = "demo"
    default_root = "demo_data"
    pretrained = str(Path(__file__).parents[1] / "demo_resnet50.pth")

    def __init__(self, root: str | Path | None = None) -> None:
        root = Path(root or self.default_root)
        if distributed.is_main() and not is_complete(root):
            generate(root)
        distributed.barrier()
        super().__init__(root)


def generate(root: str | Path) -> None:
    """Write the demo: images/, masks/, labels.csv, classes.txt, splits/train.txt and val.txt.

    It takes seconds. ``made.json`` claims the folder at first and tells at last that it is whole,
    so that :func:`is_complete` notices one that was left half made, and another call makes it
    whole. Somebody else's files, or a folder that cannot be written, raise an InputError.
    """
    root = Path(root)
    if visible(root) and not (root / "made.json").is_file():
        raise InputError(
            f"The demo would overwrite what is in {root}. Name a folder that is empty, or not "
            "there, with --dataset_root."
        )
    write_json(root / "made.json", {})
    names = [f"{'train' if n < NUM_TRAIN else 'val'}_{n:04d}" for n in range(NUM_TRAIN + NUM_VAL)]
    rows = ["image,labels"]
    for seed, name in enumerate(names):
        image, mask = make_picture(seed)
        save_rgb(root / "images" / f"{name}.png", image)
        save_label(root / "masks" / f"{name}.png", mask)
        present = [CLASS_NAMES[k - 1] for k in np.unique(mask) if k > 0]
        rows.append(f"{name}.png,{' '.join(present)}")
    write_lines(root / "labels.csv", rows)
    write_lines(root / "classes.txt", CLASS_NAMES)
    write_lines(root / "splits" / "train.txt", names[:NUM_TRAIN])
    write_lines(root / "splits" / "val.txt", names[NUM_TRAIN:])
    write_json(root / "made.json", MADE)


def is_complete(root: str | Path) -> bool:
    """Tell whether ``root`` holds the whole demo as this version makes it."""
    try:
        return json.loads((Path(root) / "made.json").read_text()) == MADE
    except (OSError, ValueError):
        return False
