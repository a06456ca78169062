"""Where the labels of a folder come from: a table, class folders, or a file in COCO's format.

labels.csv          "image,labels" names the classes of a picture, and "image,cat,dog" says 0 or 1
images/<class>/*    shows that class
annotations.json    boxes and regions, crowds included, name the classes of a picture
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.coco.annotations import read_items, read_links
from data.folder.tables import names_in, read_header, read_rows
from data.lists import plain, read_text
from tool.errors import InputError

NEGATIVES = ("good", "normal", "background", "negative", "none")  # names for pictures without class
ZERO_ONE = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
MEND = "Write it again, or take it away."

Row = tuple[str, str, set[str]]  # where it stands, the picture's name, what it shows


class Source(NamedTuple):
    """What one place says of the pictures.

    Attributes:
        name: for messages.
        classes: all names that it knows, in its order; None where only its rows tell.
        ordered: whether that order is the author's.
        rows: yields the rows, of these classes and names for none.
    """

    name: str
    classes: tuple[str, ...] | None
    ordered: bool
    rows: Callable[[Sequence[str]], Iterator[Row]]


def find_sources(root: Path, folders: Mapping[str, Sequence[Path]]) -> list[Source]:
    """Return the sources of labels in a folder, class folders last.

    Args:
        root: of the dataset.
        folders: the pictures of each folder in images/, by its name.

    Raises:
        InputError: a table has another header, or the json file is damaged.
    """
    sources = []
    if os.path.exists(root / "labels.csv"):
        sources.append(_table(root / "labels.csv"))
    if os.path.exists(root / "annotations.json"):
        sources.append(_annotations(root / "annotations.json"))
    if folders:
        sources.append(_class_folders(folders))
    return sources


def _table(path: Path) -> Source:
    def is_header(names: list[str]) -> bool:
        # A column called label is meant for names, and called wrongly.
        fit = len(names) > 1 and "label" not in names and names.count("labels") <= 1
        return fit and names.count("image") == 1

    text = read_text(path)
    separator, header = read_header(path, text, is_header, "image,labels, or image and the classes")

    def named(classes: Sequence[str]) -> Iterator[Row]:
        for where, row in read_rows(path, text, separator, header):
            if "labels" not in row:
                raise InputError(
                    f"{where}: {row.get('image', '')!r} has no cell of labels; one that is empty, "
                    "behind a separator, says that the picture has no class."
                )
            yield where, row.get("image", ""), names_in(row["labels"], where, classes)

    def zero_one(_) -> Iterator[Row]:
        for where, row in read_rows(path, text, separator, header):
            image, shown = row.pop("image", ""), set()
            for column in (name for name in header if name != "image"):
                value = ZERO_ONE.get(row.get(column, "").lower())
                if value is None:
                    raise InputError(
                        f"{where}: {row.get(column, '')!r} in the column {column} is neither 0 nor "
                        "1. Names of classes would stand in a column called labels."
                    )
                shown |= {column} if value else set()
            yield where, image, shown

    if "labels" in header:
        return Source("labels.csv", None, False, named)
    classes = tuple(name for name in header if name != "image")
    return Source("the 0 and 1 of labels.csv", classes, True, zero_one)


def _annotations(path: Path) -> Source:
    categories: dict[int, str] = {}
    for entry in read_items(path, "categories", MEND):
        if entry["id"] in categories:
            raise InputError(f"{path} names the category {entry['id']} twice. {MEND}")
        categories[entry["id"]] = plain(entry["name"].strip())

    def rows(_) -> Iterator[Row]:
        pictures: dict[int, Row] = {}
        for entry in read_items(path, "images", MEND):
            if entry["id"] in pictures:
                raise InputError(f"{path} names the picture {entry['id']} twice. {MEND}")
            where = f"{path}, picture {entry['id']}"
            pictures[entry["id"]] = where, entry["file_name"], set()
        for entry in read_links(path, pictures, categories, MEND):
            pictures[entry["image_id"]][2].add(categories[entry["category_id"]])
        yield from pictures.values()

    classes = tuple(categories[number] for number in sorted(categories))
    return Source("annotations.json", classes, True, rows)


def _class_folders(folders: Mapping[str, Sequence[Path]]) -> Source:
    def rows(_) -> Iterator[Row]:
        for name, paths in folders.items():
            yield from ((str(path), path.name, {plain(name)}) for path in paths)

    return Source("the folders in images", tuple(map(plain, folders)), False, rows)
