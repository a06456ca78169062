"""Where the labels of a folder come from: a table, class folders, or a file in COCO's format.

labels.csv          "image,labels" names the classes of a picture, and "image,cat,dog" says 0 or 1
images/<class>/*    shows that class
annotations.json    boxes and regions, crowds included, name the classes of a picture
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.coco.annotations import read_items, read_links
from data.folder.tables import names_in, read_table
from data.lists import plain
from tool.errors import InputError

NEGATIVES = ("good", "normal", "background", "negative", "none")  # names for pictures without class
ZERO_ONE = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
REMEDY = "Write it again, or take it away."

Row = tuple[str, str, set[str]]  # where it stands, the picture's name, what it shows


class Source(NamedTuple):
    """What one place says of the pictures.

    Attributes:
        name: for messages.
        classes: all names that it knows, in its order; none where only its rows tell.
        complete: whether these have to be all classes, in the order of their ids.
        rows: yields the rows, of these classes and names for none.
    """

    name: str
    classes: tuple[str, ...]
    complete: bool
    rows: Callable[[Sequence[str]], Iterator[Row]]


def find_sources(root: Path, pictures: Iterable[Path]) -> list[Source]:
    """Return the sources of labels in a folder, class folders last.

    Args:
        root: of the dataset.
        pictures: in images/ and in the folders there.

    Raises:
        InputError: a table has another header, or the json file is damaged.
    """
    sources = []
    for name, source_of in (("labels.csv", _table), ("annotations.json", _annotations)):
        if os.path.lexists(root / name):
            sources.append(source_of(root / name))
    within = [path for path in pictures if path.parent != root / "images"]
    if within:
        sources.append(_class_folders(within, bool(sources)))
    return sources


def _table(path: Path) -> Source:
    columns, rows = read_table(path, ("image",))
    classes = tuple(name for name in columns if name != "image")
    named = "labels" in columns

    def labelled(known: Sequence[str]) -> Iterator[Row]:
        for where, row in rows:
            if named:
                shown = names_in(row.get("labels"), where, known)
            else:
                shown = {name for name in classes if _is_one(row.get(name, ""), where, name)}
            yield where, row.get("image", ""), shown

    if named:
        return Source("labels.csv", (), False, labelled)
    return Source("the 0 and 1 of labels.csv", classes, True, labelled)


def _is_one(cell: str, where: str, column: str) -> bool:
    if cell.lower() not in ZERO_ONE:
        raise InputError(
            f"{where}: {cell!r} in the column {column} is neither 0 nor 1. Names of classes would "
            "stand in a column called labels."
        )
    return ZERO_ONE[cell.lower()]


def _annotations(path: Path) -> Source:
    categories = {
        entry["id"]: plain(entry["name"].strip())
        for entry in read_items(path, "categories", REMEDY)
    }

    def rows(_) -> Iterator[Row]:
        pictures: dict[int, Row] = {}
        for entry in read_items(path, "images", REMEDY):
            where = f"{path}, picture {entry['id']}"
            pictures[entry["id"]] = where, entry["file_name"], set()
        for entry in read_links(path, pictures, categories, REMEDY):
            pictures[entry["image_id"]][2].add(categories[entry["category_id"]])
        yield from pictures.values()

    classes = tuple(categories[number] for number in sorted(categories))
    return Source("annotations.json", classes, True, rows)


def _class_folders(pictures: Sequence[Path], beside: bool) -> Source:
    """Return the folders as a source; ``beside`` another one, only those that classes name."""

    def rows(known: Sequence[str]) -> Iterator[Row]:
        for path in pictures:
            name = plain(path.parent.name)
            if name in known or not beside:
                yield str(path), path.name, {name}

    names = () if beside else dict.fromkeys(plain(path.parent.name) for path in pictures)
    return Source("the folders in images", tuple(names), False, rows)
