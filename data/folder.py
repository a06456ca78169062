"""A folder of pictures with image-level labels: your own, or the demo's.

root/images/*.jpg|png...    the pictures; a picture's id is its file name without the ending
root/classes.txt            one class name a line, without background
root/labels.csv             header "image,labels": file name, class names separated by spaces
root/masks/<id>.png         ground truth, only for evaluation
root/splits/<list>.txt      lists of ids; without the folder, "train" is every picture
"""

import csv
import io
from functools import cached_property
from pathlib import Path

import numpy as np

from data import demo
from data.base import (
    PICTURE_ENDINGS,
    Dataset,
    labels_from_names,
    read_lines,
    read_list,
    read_text,
    strip_ending,
)
from tool import distributed
from tool.errors import InputError

MOST_CLASSES = 254  # 255 is "unsure" in an 8-bit mask, 0 is background


class Folder(Dataset):
    """Pictures of the user's own, laid out as above."""

    name = "folder"
    default_root = "pictures"

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(root)
        path = self.root / "classes.txt"
        if not path.is_file():
            raise InputError(f"There is no {path}: one class name a line, without background.")
        self.class_names = tuple(read_lines(path))
        if not 1 <= len(self.class_names) <= MOST_CLASSES:
            raise InputError(f"{path} has {len(self.class_names)} classes; 1 to 254 are possible.")
        for name in self.class_names:
            if name == "background":
                raise InputError(f"{path}: take background off, it is class 0 without being named.")
            if len(name.split()) > 1 or self.class_names.count(name) > 1:
                raise InputError(f"{path}: {name!r} has a space, or stands twice.")

    @property
    def test_list(self) -> str:
        """``val`` where there is such a list, else the training list."""
        return "val" if (self.root / "splits" / "val.txt").is_file() else self.train_list

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        """Id -> file, for every picture in images/."""
        pictures: dict[str, Path] = {}
        for path in sorted((self.root / "images").glob("[!.]*")):
            if path.suffix.lower() in PICTURE_ENDINGS:
                if path.stem in pictures:
                    raise InputError(
                        f"{path} and {pictures[path.stem].name} have the same id. Rename one."
                    )
                pictures[path.stem] = path
        if not pictures:
            raise InputError(f"There are no pictures in {self.root / 'images'}.")
        return pictures

    @cached_property
    def _rows(self) -> dict[str, set[str]]:
        """Id -> class names, for every row of labels.csv."""
        path = self.root / "labels.csv"
        if not path.is_file():
            raise InputError(f"There is no {path} with a header image,labels and a row a picture.")
        rows: dict[str, set[str]] = {}
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        if not {"image", "labels"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} has no header line image,labels.")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise InputError(f"{where}: too many commas. Put spaces between class names.")
            image_id = strip_ending((row["image"] or "").strip())
            names = set((row["labels"] or "").split())
            if not names:
                raise InputError(f"{where}: {image_id!r} has no class.")
            if image_id in rows:
                raise InputError(f"{where}: {image_id!r} stands there twice.")
            if image_id not in self._pictures:
                raise InputError(f"{where}: there is no picture {image_id!r} in images/.")
            unknown = names.difference(self.class_names)
            if unknown:
                raise InputError(f"{where}: {min(unknown)!r} is not in classes.txt.")
            rows[image_id] = names
        return rows

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of splits/<list_name>.txt; without it, ``train`` is every picture."""
        path = self.root / "splits" / f"{list_name}.txt"
        if path.is_file():
            return read_list(path)
        if list_name == self.train_list and not path.parent.is_dir():
            return list(self._pictures)
        raise InputError(f"There is no list {path}.")

    def image_path(self, image_id: str) -> Path:
        """Return the picture's file; one that does not exist for an unknown id."""
        return self._pictures.get(image_id, self.root / "images" / image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return masks/<id>.png."""
        return self.root / "masks" / f"{image_id}.png"

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return the classes that labels.csv names."""
        for image_id in ids:
            if image_id not in self._rows:
                raise InputError(f"{self.root / 'labels.csv'} has no row for {image_id!r}.")
        return labels_from_names([self._rows[image_id] for image_id in ids], ids, self)


class Demo(Folder):
    """The pictures that the project draws for itself, made on first use."""

    name = "demo"
    default_root = "demo_data"
    pretrained = str(Path(__file__).with_name("demo_resnet50.pth"))

    def __init__(self, root: str | Path | None = None) -> None:
        root = Path(root or self.default_root)
        if distributed.is_main() and not demo.is_complete(root):
            demo.generate(root)
        distributed.barrier()
        super().__init__(root)
