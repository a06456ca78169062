"""What people write into text files, lists of pictures or names, and what lies in folders.

Names are compared by :func:`plain`, because macOS takes letters with accents apart and other
systems do not. Files whose names start with a dot are never pictures, masks or lists: macOS leaves
``._x`` beside every ``x`` on foreign disks.
"""

import codecs
import io
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tool.errors import InputError
from tool.files import BEGINNING, check_beginning

PICTURE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
LARGEST_TEXT = 1 << 27  # bytes; a list of a million pictures has some 30 million
# As far as the first ending of a picture that a space, or nothing, follows.
FIRST_PICTURE = re.compile(rf".*?\.(?:{'|'.join(e[1:] for e in PICTURE_ENDINGS)})(?=\s|$)", re.I)


def read_list(path: Path, id_of: Callable[[str], str] | None = None) -> list[str]:
    """Return the ids in a text file, one a line, as :func:`picture_name` finds them.

    ``id_of`` gives the id of a picture's name, and is :func:`strip_ending` by default. A missing
    file, or one that is no text, raises an InputError.
    """
    return [(id_of or strip_ending)(picture_name(line)) for line in read_lines(path)]


def picture_name(line: str) -> str:
    r"""Return the file name, without folders, that a line of a list means.

    A line is an id, a file name, a path to the picture with ``/`` or ``\``, or two paths such as
    ``/JPEGImages/x.jpg /SegmentationClassAug/x.png``, whose first one counts. Names may hold
    spaces: a path of several words reaches as far as its first picture ending, and without such an
    ending it is the whole line, or the first half of two paths with the same file name.
    """
    line = line.replace("\\", "/")
    first = FIRST_PICTURE.match(line)
    if first and ("/" in line or _stem(first[0]) == _stem(line[first.end() :].strip())):
        line = first[0]
    elif not first:
        words = re.split(r"\s", line)
        half = " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
        if all("/" in path for path in half) and _stem(half[0]) == _stem(half[1]):
            line = half[0]
    return line.rsplit("/", 1)[-1]


def _stem(path: str) -> str:
    return strip_ending(path.rsplit("/", 1)[-1])


def strip_ending(file_name: str) -> str:
    """Return a picture's file name without its ending; ids themselves may hold dots."""
    stem, dot, ending = file_name.rpartition(".")
    return stem if dot + ending.lower() in PICTURE_ENDINGS else file_name


def plain(name: str) -> str:
    """Return a name in Unicode's form NFC, in which equal names are equal strings."""
    return unicodedata.normalize("NFC", name)


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without names that start with a dot.

    A folder that does not exist holds nothing; one that may not be read raises an InputError.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def find_list(folder: Path, list_name: str) -> Path:
    """Return ``<folder>/<list_name>.txt``; an InputError tells which lists there are instead."""
    path = folder / f"{list_name}.txt"
    if os.path.isfile(path):
        return path
    known = ", ".join(p.stem for p in visible(folder) if p.suffix == ".txt") or "none"
    given = Path(list_name).absolute()
    if os.path.isdir(given) and len(Path(list_name).parts) > 1:
        raise InputError(f"{given} is a folder, no list; that is a text file of ids.")
    if os.path.isfile(given):
        raise InputError(
            f"There is no list {path}; that folder has {known}. If you mean the file {given}, "
            "write its whole path."
        )
    fault = f"{list_name}, neither as the file {given} nor as {path}; that folder"
    if list_name.endswith(".txt"):
        fault = f"{given}. Lists of the dataset are named without folder and ending; {folder}"
    raise InputError(f"There is no list {fault} has {known}.")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file without surrounding space, see :func:`read_text`.

    Empty lines are left out, and remarks: lines that begin with ``#`` and a space.
    """
    lines = (line.strip() for line in io.StringIO(read_text(path), newline=None))
    return [line for line in lines if line and not re.match(r"#\s|#$", line)]


def read_text(path: Path) -> str:
    """Return a UTF-8 text file without byte order marks; any other file raises an InputError."""
    content = read_bytes(path, LARGEST_TEXT)
    check_beginning(path, content[:BEGINNING])
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and len(content) % 2 == 0:
        raise InputError(f"{path} is no UTF-8 text but UTF-16. Save it as UTF-8.")
    if b"\0" in content:
        raise InputError(f"{path} is no UTF-8 text: it has zero bytes. Save it as UTF-8.")
    try:
        return content.decode().replace("\ufeff", "")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1]
        raise InputError(
            f"{path} is no UTF-8 text: line {line} has the byte 0x{byte.hex()}, which is "
            f"{byte.decode('latin-1')!r} in Latin-1. Save it as UTF-8."
        ) from error


def read_bytes(path: Path, largest: int) -> bytes:
    """Return the content of a file of at most ``largest`` bytes; else raise an InputError."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path} is a folder or a device, not a file.")
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > largest:
        raise InputError(f"{path} has more than {largest} bytes, too many for what it should be.")
    return content
