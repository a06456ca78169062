"""Where the labels of a folder come from: a table, class folders, or a file in COCO's format.

labels.csv          "image,labels" names the classes of a picture, and "image,cat,dog" says 0 or 1
images/<class>/*    shows that class
annotations.json    boxes and regions, crowds included, name the classes of a picture
"""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.coco.annotations import read_linked, refuse_other_tools
from data.folder.tables import REMEDY
from data.lists import named, plain
from tool.checkpoint import some
from tool.errors import InputError, collected
from tool.reader import Row, read_table

NEGATIVES = ("good", "normal", "background", "negative", "none")  # names for pictures without class
ZERO_ONE = dict.fromkeys(("0", "0.0", "false", "no", "n"), False)
ZERO_ONE |= dict.fromkeys(("1", "1.0", "true", "yes", "y"), True)
FOLDERS = "the folders in images"
# Names of a table's columns, the usual one first.
IMAGE = ("image", "filename", "file_name", "file", "image_name", "image_path", "path", "picture")
LABELS = ("labels", "label", "classes", "class", "category", "choice")
CHOICES = re.compile(r'^{"choices":\[|"|\]}$')  # around several labels in Label Studio's tables
INDEX = ("", "unnamed: 0", "index")  # columns in which pandas numbers the rows
ROOT = "0"  # id of the category that Roboflow puts above all others
NOTHING = (None, [], [[]], [0, 0, 0, 0])  # of a box or a region
Shown = tuple[str, str, set[str] | str]  # where it stands, a picture, and class names, or a cell

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """What one place says of the pictures.

    Attributes:
        name: for messages.
        classes: all names that it knows, in its order; none where only its rows tell.
        rows: where each stands, the picture's name, and what it shows: names, or a cell of them.
    """

    name: str
    classes: tuple[str, ...]
    rows: list[Shown]


def find_sources(root: Path, images: Path, pictures: Iterable[Path]) -> list[Source]:
    """Return the sources of labels in a folder, class folders last.

    Args:
        root: of the dataset.
        images: its folder of pictures.
        pictures: there, and in the folders there.

    Raises:
        InputError: a table has another header or no 0 and 1, or a json file is damaged or of
            another form.
    """
    sources = []
    for name, source_of in READERS.items():
        path = named((root / name).parent, Path(name).name)
        if os.path.lexists(path):
            sources.append(source_of(path))
    rows = [
        (str(path), path.relative_to(images).as_posix(), {plain(path.parent.name)})
        for path in pictures
        if path.parent != images
    ]
    if rows:
        names = set() if sources else set().union(*(shown for _, _, shown in rows))
        sources.append(Source(FOLDERS, tuple(sorted(names)), rows))
    return sources


def _table(path: Path) -> Source:
    table = read_table(path, REMEDY, (), whole=True)
    columns = {name.casefold(): name for row in table[:1] for name in row}
    refuse_other_tools(path, list(columns))
    image, labels = (
        next((columns[name] for name in names if name in columns), None)
        for names in (IMAGE, LABELS)
    )
    if image is None:
        raise InputError(f"{path} has no row below a header with a column {IMAGE[0]}. {REMEDY}")
    others = [n for n in table[0] if n.casefold() not in INDEX and n not in (image, labels)]
    classes = []
    if labels is None:
        classes = [n for n in others if any(row[n].casefold() in ZERO_ONE for row in table)]
        rows = _zero_one(table, image, classes)
    else:
        rows = [(row.where, row[image], CHOICES.sub("", row[labels])) for row in table]
    remarks = [name for name in others if name not in classes]
    if remarks:
        log.warning("%s: these columns are remarks, not classes: %s", path, some(remarks))
    return Source(path.name, tuple(classes), rows)


def _zero_one(table: list[Row], image: str, classes: list[str]) -> list[Shown]:
    rows = []
    with collected() as keeping:
        for row in table:
            with keeping(row.where):
                shown = set()
                for name in classes:
                    said = ZERO_ONE.get(row[name].casefold())
                    if said is None:
                        raise InputError(
                            f"{row[name]!r} in the column {name} is neither 0 nor 1. Names of "
                            "classes would stand in a column called labels."
                        )
                    if said:
                        shown.add(name)
                rows.append((row.where, row[image], shown))
    return rows


def _annotations(path: Path) -> Source:
    pictures, categories, annotations = read_linked(path, REMEDY)
    shown = {key: set() for key in pictures}  # ids of categories by those of pictures
    empty = 0
    for picture, category, entry in annotations:
        # Some tools say by an empty box that there is nothing.
        if entry.get("bbox", True) in NOTHING and entry.get("segmentation") in NOTHING:
            empty += 1
        else:
            shown[picture].add(category)
    if empty:
        log.warning("%s: %d annotations have an empty box, and are of no class", path, empty)
    top = categories.get(ROOT)
    if top and ROOT not in set().union(*shown.values()):
        others = [entry for entry in categories.values() if entry is not top]
        if all(entry.get("supercategory") == top["name"] for entry in others):
            del categories[ROOT]
    names = {key: plain(entry["name"].strip()) for key, entry in categories.items()}
    ids = sorted(names, key=int) if all(map(str.isdecimal, names)) else list(names)
    rows = [
        (f"{path}, picture {key}", entry["file_name"], {names[one] for one in shown[key]})
        for key, entry in pictures.items()
    ]
    return Source(path.name, tuple(names[key] for key in ids), rows)


# The usual name, then those that Roboflow gives tables, and CVAT, Roboflow, Label Studio and
# FiftyOne files in COCO's format.
READERS = {
    "labels.csv": _table,
    "_classes.csv": _table,
    "annotations.json": _annotations,
    "instances_default.json": _annotations,
    "annotations/instances_default.json": _annotations,
    "_annotations.coco.json": _annotations,
    "result.json": _annotations,
    "labels.json": _annotations,
}
