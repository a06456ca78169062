"""Where the labels of a folder come from: a table, class folders, or a file in COCO's format.

labels.csv          "image,labels" names the classes of a picture, and "image,cat,dog" says 0 or 1
images/<class>/*    shows that class
annotations.json    boxes and regions, crowds included, name the classes of a picture
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from data.coco.annotations import read_items, read_links
from data.folder.tables import Rows, names_in, read_table
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
        classes: all names that it knows, in its order; None where only its rows tell.
        ordered: whether that order is the author's.
        rows: yields the rows, of these classes and names for none.
    """

    name: str
    classes: tuple[str, ...] | None
    ordered: bool
    rows: Callable[[Sequence[str]], Iterator[Row]]

    def is_only_folders(self, classes: Set[str]) -> bool:
        """Tell whether these are folders in images/ of which none is called as a class is."""
        return not self.ordered and classes.isdisjoint(self.classes or classes)


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
        sources.append(_class_folders(within))
    return sources


def _table(path: Path) -> Source:
    def fits(names: list[str]) -> bool:
        # A column called label is meant for names, and called wrongly.
        return len(names) > 1 and "image" in names and "label" not in names

    columns, rows = read_table(path, fits, "image,labels, or image and the classes")
    if "labels" in columns:
        return Source("labels.csv", None, False, lambda classes: _named(rows, classes))
    classes = tuple(name for name in columns if name != "image")
    return Source("the 0 and 1 of labels.csv", classes, True, lambda _: _zero_one(rows, classes))


def _named(rows: Rows, classes: Sequence[str]) -> Iterator[Row]:
    for where, row in rows:
        if "labels" not in row:
            raise InputError(
                f"{where}: {row.get('image', '')!r} has no cell of labels; one that is empty, "
                "behind a separator, says that the picture has no class."
            )
        yield where, row.get("image", ""), names_in(row["labels"], where, classes)


def _zero_one(rows: Rows, classes: Sequence[str]) -> Iterator[Row]:
    for where, row in rows:
        shown = set()
        for name in classes:
            value = ZERO_ONE.get(row.get(name, "").lower())
            if value is None:
                raise InputError(
                    f"{where}: {row.get(name, '')!r} in the column {name} is neither 0 nor 1. "
                    "Names of classes would stand in a column called labels."
                )
            if value:
                shown.add(name)
        yield where, row.get("image", ""), shown


def _annotations(path: Path) -> Source:
    categories: dict[int, str] = {}
    for entry in read_items(path, "categories", REMEDY):
        if entry["id"] in categories:
            raise InputError(f"{path} names the category {entry['id']} twice. {REMEDY}")
        categories[entry["id"]] = plain(entry["name"].strip())

    def rows(_) -> Iterator[Row]:
        pictures: dict[int, Row] = {}
        for entry in read_items(path, "images", REMEDY):
            if entry["id"] in pictures:
                raise InputError(f"{path} names the picture {entry['id']} twice. {REMEDY}")
            where = f"{path}, picture {entry['id']}"
            pictures[entry["id"]] = where, entry["file_name"], set()
        for entry in read_links(path, pictures, categories, REMEDY):
            pictures[entry["image_id"]][2].add(categories[entry["category_id"]])
        yield from pictures.values()

    classes = tuple(categories[number] for number in sorted(categories))
    return Source("annotations.json", classes, True, rows)


def _class_folders(pictures: Sequence[Path]) -> Source:
    rows = [(str(path), path.name, {plain(path.parent.name)}) for path in pictures]
    classes = tuple(dict.fromkeys(plain(path.parent.name) for path in pictures))
    return Source("the folders in images", classes, False, lambda _: iter(rows))
