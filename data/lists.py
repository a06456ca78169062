"""Names of pictures as people write them, lists of them, and what lies in folders.

Names are compared by :func:`plain`, because macOS takes letters with accents apart and other
systems do not. Files whose names start with a dot are never pictures, masks or lists: macOS leaves
``._x`` beside every ``x`` on foreign disks.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tool.errors import InputError
from tool.reader import decoding, read_lines
from tool.writer import own_among

PICTURE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
OWN = "files that programs of this project made"
# As far as the first ending of a picture that a space, or nothing, follows.
FIRST_PICTURE = re.compile(rf".*?\.(?:{'|'.join(e[1:] for e in PICTURE_ENDINGS)})(?=\s|$)", re.I)


def picture_name(line: str) -> str:
    r"""Return the file name, without folders, that a line of a list means.

    A line is an id, a file name, a path to the picture with ``/`` or ``\``, or two paths such as
    ``/JPEGImages/x.jpg /SegmentationClassAug/x.png``, whose first one counts. Names may hold
    spaces: a path of several words reaches as far as its first picture ending.
    """
    line = line.replace("\\", "/")
    first = FIRST_PICTURE.match(line)
    if first and (
        "/" in line or strip_ending(first[0]) == strip_ending(line[first.end() :].strip())
    ):
        line = first[0]
    return line.rsplit("/", 1)[-1]


def strip_ending(file_name: str) -> str:
    """Return a picture's file name without its ending; ids themselves may hold dots."""
    stem, dot, ending = file_name.rpartition(".")
    return stem if dot + ending.lower() in PICTURE_ENDINGS else file_name


def read_list(path: Path, id_of: Callable[[str], str] = strip_ending) -> list[str]:
    """Return the ids in a text file, one a line, as :func:`picture_name` finds them.

    ``id_of`` gives the id of a picture's name. A missing file, or one that is no text, raises an
    InputError.
    """
    return [id_of(picture_name(line)) for line in read_lines(path)]


def plain(name: str) -> str:
    """Return a name in Unicode's form NFC, in which equal names are equal strings."""
    return unicodedata.normalize("NFC", name)


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without names that start with a dot.

    A folder that does not exist holds nothing; one that may not be read raises an InputError.
    """
    if not os.path.isdir(folder):
        return []
    with decoding(folder, "Give a folder that may be read."):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def pictures_in(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the pictures in a folder, and how many other things of each kind there are.

    What this project made there is of the kind OWN.
    """
    pictures, others = [], Counter()
    paths = visible(folder)
    own = own_among(folder, {path.name for path in paths})
    for path in paths:
        ending = path.suffix.lower()
        if path.name in own:
            others[OWN] += 1
        elif ending in PICTURE_ENDINGS:
            pictures.append(path)
        else:
            others["folders" if path.is_dir() else ending or "files without an ending"] += 1
    return pictures, others


def find_list(folder: Path, list_name: str) -> Path:
    """Return ``<folder>/<list_name>.txt``; an InputError says which lists there are instead."""
    path = folder / f"{list_name}.txt"
    if os.path.isfile(path):
        return path
    known = ", ".join(p.stem for p in visible(folder) if p.suffix == ".txt") or "none"
    raise InputError(
        f"There is no list {list_name}: it is no file with an ending or a folder in its name, and "
        f"{folder} has {known}."
    )


def spread(items: Iterable, most: int) -> list:
    """Return up to so many of some items, evenly spread."""
    items = list(items)
    return items[:: max(1, -(-len(items) // most))]
