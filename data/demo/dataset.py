"""The dataset of the demo: a folder of drawn pictures, made on first use."""

from pathlib import Path

import numpy as np

from data.demo.drawing import CLASS_NAMES, make_picture
from data.folder import Folder
from tool import distributed
from tool.pictures import save_label, save_rgb
from tool.writer import NOTE, own_folder, read_note, write_json, write_lines

PROGRAM = "data.demo"
WHOLE = {"program": PROGRAM, "version": 3}  # the folder's note, once everything is there


class Demo(Folder):
    """The pictures that the project draws for itself, made on first use."""

    name = "demo"
    default_root = "demo_data"
    pretrained = str(Path(__file__).parents[1] / "demo_resnet50.pth")

    def __init__(self, root: str | Path | None = None) -> None:
        root = Path(root or self.default_root)
        if distributed.is_main() and read_note(root) != WHOLE:
            generate(root)
        distributed.barrier()
        super().__init__(root)


def generate(root: Path, num_train: int = 300, num_val: int = 80) -> None:
    """Write the demo: images/, masks/, labels.csv, classes.txt, splits/train.txt and val.txt.

    It takes seconds. The folder's note says at last that it is whole.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    _, lock = own_folder(root, PROGRAM)
    with lock:
        rows = ["image,labels"]
        lists = {"train": range(num_train), "val": range(num_train, num_train + num_val)}
        for list_name, seeds in lists.items():
            names = [f"{list_name}_{seed:04d}" for seed in seeds]
            for seed, name in zip(seeds, names, strict=True):
                image, mask = make_picture(seed)
                save_rgb(root / "images" / f"{name}.png", image)
                save_label(root / "masks" / f"{name}.png", mask)
                present = [CLASS_NAMES[k - 1] for k in np.unique(mask) if k > 0]
                rows.append(f"{name}.png,{' '.join(present)}")
            write_lines(root / "splits" / f"{list_name}.txt", names)
        write_lines(root / "labels.csv", rows)
        write_lines(root / "classes.txt", CLASS_NAMES)
        write_json(root / NOTE, WHOLE)
