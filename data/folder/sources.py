"""Where the labels of a folder come from: a table, class folders, or a file in COCO's format.

labels.csv          "image,labels" names the classes of a picture, and "image,cat,dog" says 0 or 1
images/<class>/*    shows that class
annotations.json    boxes and regions, crowds included, name the classes of a picture
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.coco.annotations import read_items, read_links
from data.folder.tables import REMEDY
from data.lists import plain
from tool.errors import InputError
from tool.reader import read_table

NEGATIVES = ("good", "normal", "background", "negative", "none")  # names for pictures without class
ZERO_ONE = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
FOLDERS = "the folders in images"


class Source(NamedTuple):
    """What one place says of the pictures.

    Attributes:
        name: for messages.
        classes: all names that it knows, in its order; none where only its rows tell.
        rows: where each stands, the picture's name, and what it shows: names, or a cell of them.
    """

    name: str
    classes: tuple[str, ...]
    rows: list[tuple[str, str, set[str] | str]]


def find_sources(root: Path, pictures: Iterable[Path]) -> list[Source]:
    """Return the sources of labels in a folder, class folders last.

    Args:
        root: of the dataset.
        pictures: in images/ and in the folders there.

    Raises:
        InputError: a table has another header or no 0 and 1, or the json file is damaged.
    """
    sources = []
    for name, source_of in (("labels.csv", _table), ("annotations.json", _annotations)):
        if os.path.lexists(root / name):
            sources.append(source_of(root / name))
    within = [path for path in pictures if path.parent != root / "images"]
    if within:
        rows = [(str(path), path.name, {plain(path.parent.name)}) for path in within]
        names = () if sources else dict.fromkeys(plain(path.parent.name) for path in within)
        sources.append(Source(FOLDERS, tuple(names), rows))
    return sources


def _table(path: Path) -> Source:
    table = read_table(path, REMEDY, ("image",), whole=True)
    columns = [name for row in table[:1] for name in row if name != "image"]
    if "labels" in columns:
        rows = [(row.where, row["image"], row["labels"]) for row in table]
        return Source("labels.csv", (), rows)
    rows = []
    for row in table:
        for name in columns:
            if row[name].lower() not in ZERO_ONE:
                raise InputError(
                    f"{row.where}: {row[name]!r} in the column {name} is neither 0 nor 1. Names of "
                    "classes would stand in a column called labels."
                )
        shown = {name for name in columns if ZERO_ONE[row[name].lower()]}
        rows.append((row.where, row["image"], shown))
    return Source("the 0 and 1 of labels.csv", tuple(columns), rows)


def _annotations(path: Path) -> Source:
    classes = {
        entry["id"]: plain(entry["name"].strip()) for entry in read_items(path, "categories")
    }
    shown = {
        entry["id"]: (f"{path}, picture {entry['id']}", entry["file_name"], set())
        for entry in read_items(path, "images")
    }
    for entry in read_links(path, shown, classes):
        shown[entry["image_id"]][2].add(classes[entry["category_id"]])
    names = tuple(classes[number] for number in sorted(classes))
    return Source("annotations.json", names, list(shown.values()))
