"""A folder of pictures with image-level labels.

root/images/*.jpg|png...    the pictures; a picture's id is its file name without the ending
root/classes.txt            one class name a line, without background; names may hold spaces
root/labels.csv             header "image,labels": file name, class names
root/masks/<id>.png         ground truth, only for evaluation
root/splits/<list>.txt      lists of ids; without the folder, "train" is every picture

The columns of labels.csv are separated by commas, semicolons or tabs, as the header is. Its cell of
class names is read as words between spaces, as names between ``;``, ``,`` or ``|``, and as one
name. Where exactly one of these gives classes only, it counts; where two give different classes,
the row is refused. A single name is set apart by a separator behind it, as in ``traffic light;``.
"""

import csv
import io
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from data import lists
from data.base import Dataset, labels_from_names
from tool.errors import InputError

MOST_CLASSES = 254  # 255 is "unsure" in an 8-bit mask, 0 is background
NOT_NAMED = ("background", "bg", "__ignore__")
COLUMN_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
NAME_SEPARATORS = (";", ",", "|")


class Folder(Dataset):
    """Pictures of the user's own, laid out as above."""

    name = "folder"
    default_root = "pictures"

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(root)
        path = self.root / "classes.txt"
        if not os.path.exists(path):
            raise InputError(f"There is no {path}: one class name a line, without background.")
        self.class_names = tuple(lists.read_lines(path))
        if not 1 <= len(self.class_names) <= MOST_CLASSES:
            raise InputError(f"{path} has {len(self.class_names)} classes; 1 to 254 are possible.")
        before: dict[str, str] = {}
        for number, name in enumerate(self.class_names):
            key = lists.plain(name).casefold()
            if key in NOT_NAMED or key.strip("_- ") in NOT_NAMED:
                agree = "those behind it move up by one: compare them with the masks' ids"
                if number == 0:
                    agree = "the ids of the others are then 1, 2, ... as in masks with background 0"
                raise InputError(
                    f"{path}: take {name} off, it is class 0 without being named; {agree}."
                )
            if " ".join(name.split()) != name:
                raise InputError(f"{path}: {name!r} has a tab, or two spaces in a row.")
            if key in before:
                raise InputError(f"{path}: {name!r} stands twice, as {before[key]!r} before.")
            before[key] = name

    @property
    def test_list(self) -> str:
        """``val`` where there is such a list, else the training list."""
        return "val" if os.path.isfile(self.root / "splits" / "val.txt") else self.train_list

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        """Id -> file, for every picture in images/."""
        pictures: dict[str, Path] = {}
        taken: dict[str, Path] = {}
        for path in lists.visible(self.root / "images"):
            if path.suffix.lower() in lists.PICTURE_ENDINGS and not path.is_dir():
                # cat.jpg.png has the id cat.jpg, which looks like the file name of cat.
                for key in (lists.plain(path.stem), lists.plain(lists.strip_ending(path.stem))):
                    if taken.setdefault(key, path) != path:
                        raise InputError(
                            f"{path} and {taken[key].name} have the same id. Rename one."
                        )
                pictures[path.stem] = path
        if not pictures:
            raise InputError(f"There are no pictures in {self.root / 'images'}.")
        return pictures

    @cached_property
    def _ids(self) -> dict[str, str]:
        """Id in Unicode's form NFC -> id as the file is named."""
        return {lists.plain(image_id): image_id for image_id in self._pictures}

    def id_of(self, name: str) -> str:
        """Return the id of the picture that is called ``name``; ``name`` itself where none is."""
        name = lists.plain(name)
        stem = lists.strip_ending(name)
        return self._ids.get(name) or self._ids.get(stem, stem)

    @cached_property
    def _rows(self) -> dict[str, set[str]]:
        """Id -> class names, for every row of labels.csv."""
        path = self.root / "labels.csv"
        if not os.path.exists(path):
            raise InputError(f"There is no {path} with a header image,labels and a row a picture.")
        rows: dict[str, set[str]] = {}
        for where, image, cell in _read_labels(path):
            image_id = self.id_of(lists.picture_name(image))
            if image_id in rows:
                raise InputError(f"{where}: {image_id!r} stands there twice.")
            if not cell.strip("".join(NAME_SEPARATORS) + " "):
                raise InputError(f"{where}: {image_id!r} has no class.")
            if image_id not in self._pictures:
                raise InputError(f"{where}: there is no picture {image_id!r} in images/.")
            rows[image_id] = self._names_in(cell, where)
        return rows

    def _names_in(self, cell: str, where: str) -> set[str]:
        """Return the classes that a cell of labels.csv names, by the rule of this module."""
        readings = [cell.split(), [cell]]
        readings += [cell.split(separator) for separator in NAME_SEPARATORS if separator in cell]
        readings = [{lists.plain(name.strip()) for name in names} - {""} for names in readings]
        known = {lists.plain(name): name for name in self.class_names}
        fitting = [names for names in readings if names and names <= known.keys()]
        if any(names != fitting[0] for names in fitting):
            raise InputError(
                f"{where}: {cell!r} can be read in two ways. Put ; behind every class name."
            )
        if fitting:
            return {known[name] for name in fitting[0]}
        tried = readings[0] if len(readings) == 2 else readings[2]
        name = min(tried - known.keys())
        near = next((n for n in self.class_names if n.casefold() == name.casefold()), None)
        mend = f"; {near!r} is" if near else ""
        if any(" " in n for n in self.class_names):
            mend += "; names with spaces need a ; behind each name"
        raise InputError(f"{where}: {name!r} is not in classes.txt{mend}.")

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of splits/<list_name>.txt; without it, ``train`` is every picture."""
        folder = self.root / "splits"
        if list_name == self.train_list and not os.path.lexists(folder):
            return list(self._pictures)
        return lists.read_list(lists.find_list(folder, list_name), self.id_of)

    def image_path(self, image_id: str) -> Path:
        """Return the picture's file; one that does not exist for an unknown id."""
        return self._pictures.get(image_id, self.root / "images" / image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return masks/<id>.png; the ending may be in capitals, the id in any Unicode form."""
        path = self.root / "masks" / f"{image_id}.png"
        return path if os.path.isfile(path) else self._odd_masks.get(lists.plain(image_id), path)

    @cached_property
    def _odd_masks(self) -> dict[str, Path]:
        """Id in Unicode's form NFC -> mask."""
        masks = (p for p in lists.visible(self.root / "masks") if p.suffix.lower() == ".png")
        return {lists.plain(path.stem): path for path in masks}

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return the classes that labels.csv names."""
        for image_id in ids:
            if image_id not in self._rows:
                of = f", which the list {self.list_of[image_id]} names" * (image_id in self.list_of)
                raise InputError(
                    f"{self.root / 'labels.csv'} has no row for {image_id!r}{of}. Add the row "
                    f"{self.image_path(image_id).name},<its classes>, or take it off the list."
                )
        return labels_from_names([self._rows[image_id] for image_id in ids], ids, self)


def _read_labels(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (where, image, labels) of every row of labels.csv, the cells without outer space.

    A file that is no text or no table with the columns image and labels raises an InputError.
    """
    text = lists.read_text(path)
    first = text.splitlines()[0] if text.strip() else ""
    for separator in COLUMN_SEPARATORS:
        header = [name.strip(' "').lower() for name in first.split(separator)]
        if header.count("image") == header.count("labels") == 1:
            break
    else:
        raise InputError(f"{path} has no header line image,labels.")
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    begin = 1
    try:
        for cells in lines:
            begin, where = lines.line_num + 1, f"{path}, line {lines.line_num}"
            if lines.line_num == 1 or not any(cell.strip() for cell in cells):
                continue
            row = dict(zip(header, [cell.strip() for cell in cells], strict=False))
            if any(cell.strip() for cell in cells[len(header) :]):
                many = COLUMN_SEPARATORS[separator]
                raise InputError(f"{where}: too many {many}. Put spaces between class names.")
            image, cell = row.get("image", ""), row.get("labels", "")
            if "\n" in image + cell or "\r" in image + cell:
                raise InputError(f"{where}: a quotation mark is open from an earlier line on.")
            yield where, image, cell
    except csv.Error as error:
        raise InputError(
            f"{path}, line {begin}: a quotation mark is not closed, or stands inside a cell "
            f"({error}). Close it, or leave it out."
        ) from error
