"""The folder of MS COCO 2014, as every step reads it once it is prepared."""

import shlex
from functools import cached_property
from pathlib import Path

from data.base import Dataset
from data.lists import picture_id, read_list
from tool.errors import InputError
from tool.reader import read_table, regular

SPLITS = ("train", "val")

CLASS_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)

DIGITS = 12  # of an image number, with which an id ends


class COCO(Dataset):
    """The folder of MS COCO 2014: pictures, annotations, and what the preparation made of them.

    An id is a picture's file name without its ending, such as ``COCO_val2014_000000000042``. Class
    ids ascend with COCO's category ids (1..90 with gaps). Lists: ``train``, ``val``, those of
    annotated pictures, and ``train_sample``.
    """

    name = "coco"
    default_root = "../ms_coco_14&15"
    masks_are_optional = False
    class_names = tuple(CLASS_NAMES.split(", "))

    @property
    def prepared(self) -> Path:
        """The folder of what the preparation makes."""
        return self.root / "prepared"

    @property
    def command(self) -> str:
        """What a user types to prepare the dataset."""
        return f"python -m data.coco --dataset_root {shlex.quote(str(self.root))}"

    def id_of(self, name: str) -> str:
        """Return the id of a picture in a list, which may also hold COCO's bare image numbers."""
        stem = picture_id(name)
        return self._numbered.get(stem.zfill(DIGITS), stem)

    @cached_property
    def _numbered(self) -> dict[str, str]:
        return {image_id[-DIGITS:]: image_id for image_id in self._names}

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids in prepared/<list_name>.txt."""
        path = self.prepared / f"{list_name}.txt"
        regular(path, f"There is no {path}; MS COCO must be prepared: {self.command}")
        return read_list(path)

    def image_path(self, image_id: str) -> Path:
        """Return <id>.jpg in images/train2014 or val2014, as the id names it, or beside images."""
        split = "val2014" if "val2014" in image_id else "train2014"
        folder = self.root / "images" / split
        return (folder if folder.is_dir() else self.root / split) / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Return prepared/masks/<id>.png."""
        return self.prepared / "masks" / f"{image_id}.png"

    @cached_property
    def _names(self) -> dict[str, set[str]]:
        """The classes of every picture of the splits that are prepared, by its id."""
        again = f"Delete it and prepare again: {self.command}"
        paths = [self.prepared / f"{split}_labels.csv" for split in SPLITS]
        names = {}
        for path in filter(Path.is_file, paths):
            rows = read_table(path, again, ("id", "classes"))
            names |= {row["id"]: set(row["classes"].split("; ")) for row in rows}
        if not names:
            raise InputError(f"There is no {paths[0]}; MS COCO must be prepared: {self.command}")
        return names

    def names_of(self, image_id: str) -> set[str]:
        """Return the categories of the picture's annotations, crowds included."""
        if image_id not in self._names:
            raise InputError(
                f"{image_id} has no label in {self.prepared}. Take it off the list; or, if it came "
                f"in since the preparation: {self.command}"
            )
        return self._names[image_id]
