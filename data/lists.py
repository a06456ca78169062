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
from functools import cache
from pathlib import Path

from tool.errors import InputError, printable
from tool.reader import decoding, read_lines, regular
from tool.writer import own_in

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
OWN = "files that programs of this project made"
# As far as the first ending of a picture that a space, or nothing, follows.
FIRST_PICTURE = re.compile(rf".*?\.(?:{'|'.join(e[1:] for e in PICTURE_ENDINGS)})(?=\s|$)", re.I)
MASK = "_mask"  # behind the id in names of masks of other tools, and of predict.py


def picture_path(line: str) -> str:
    r"""Return the path of the picture, with ``/`` between folders, that a line of a list means.

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
    return line


def strip_ending(path: str) -> str:
    """Return a picture's path without its ending; ids themselves may hold dots."""
    stem, dot, ending = path.rpartition(".")
    return stem if dot + ending.lower() in PICTURE_ENDINGS else path


def picture_id(path: str) -> str:
    """Return the usual id of a picture: its file name without folders and ending."""
    return strip_ending(path.rsplit("/", 1)[-1])


def read_list(path: Path, id_of: Callable[[str], str] = picture_id) -> list[str]:
    """Return the ids in a text file, one a line, as :func:`picture_path` finds the pictures.

    ``id_of`` gives the id of a picture's path. A missing file, or one that is no text, raises an
    InputError.
    """
    return [id_of(picture_path(line)) for line in read_lines(path)]


def plain(name: str) -> str:
    """Return a name in Unicode's form NFC, in which equal names are equal strings."""
    return unicodedata.normalize("NFC", name)


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without names that start with a dot.

    A folder that does not exist holds nothing; one that may not be read, or that a broken link
    stands for, raises an InputError.
    """
    if not os.path.isdir(folder):
        if os.path.islink(folder):
            regular(folder)  # says where the link leads
        return []
    with decoding(folder, "Give a folder that may be read."):
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    return [folder / name for name in sorted(names)]


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder and of the folders there, in the order of :func:`visible`.

    Links to a folder that they lie in are left out, because they would never end.
    """
    files = []
    for path in visible(folder):
        if not os.path.isdir(path):
            files.append(path)
        elif not folder.resolve().is_relative_to(path.resolve()):
            files += files_in(path)
    return files


def named(folder: Path, name: str) -> Path:
    """Return what a folder holds under a name, be it in capitals, or with a second ``.txt``.

    Systems that hide endings let people write ``labels.csv.txt``. Where nothing is called so, the
    path that was looked for is returned.
    """
    exact = folder / name
    alike = [path for path in visible(folder) if path.name.casefold() in (name, f"{name}.txt")]
    return exact if exact in alike or not alike else alike[0]


def pictures_among(files: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """Return which files are pictures by their endings, and how many others of each kind are.

    What this project made is none, but of the kind OWN.
    """
    own_of = cache(own_in)
    pictures, others = [], Counter()
    for path in files:
        ending = path.suffix.lower()
        if path.name in own_of(path.parent):
            others[OWN] += 1
        elif ending in PICTURE_ENDINGS:
            pictures.append(path)
        else:
            kind = printable(ending) or "files without an ending"
            others["folders" if path.is_dir() else kind] += 1
    return pictures, others


def listed(others: Counter[str]) -> str:
    """Return how many there are of each kind, for a message."""
    return ", ".join(f"{number} {kind}" for kind, number in others.items())


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
