"""Where bytes of a disk become values: opened, bounded, decoded and checked, in this one place.

Every file that a program reads passes through :func:`read_bytes` or :func:`regular`, is decoded
inside :func:`decoding`, which alone catches what broken bytes raise, and is compared with a schema:

========================  ==========================================================================
schema                    what it admits
========================  ==========================================================================
``str``, ``bool``         that type
``int``                   a whole number of at most 2^53 in magnitude, and no bool
``float``                 a finite whole or real number
``Between(low, high)``    a finite number in that range
``{"a", "b"}``            one of these values
``[schema]``              a list of any length
``(schema, schema)``      a list of that length
``{str: schema}``         an object with any names
``{"a": .., "b?": ..}``   an object that has ``a``, may have ``b`` (``null`` counts as absent), and
                          may have more
``object``                anything
========================  ==========================================================================
"""

import codecs
import csv
import hashlib
import io
import json
import os
import re
import sys
import traceback
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tool.errors import InputError, naming, printable

# What is often found in the place of a file: how that begins, what it is, and what to do about it.
STAND_INS = {
    rb"version https://git-lfs\.github\.com": "a git-LFS pointer. Run git lfs pull",
    rb"\x1f\x8b": "packed by gzip. Unpack it",
    rb"(?s:.{257})ustar": "a tar archive. Unpack it, and give the file inside",
    rb"[\xef\xbb\xbf\s]*<(?i:!doctype html|html|head)": "a web page. Download the file itself",
}
BEGINNING = 512  # bytes that tell what a file is
LARGEST_TEXT = 1 << 29  # bytes; the annotations of MS COCO have 450 million
LARGEST_ARRAYS = 1 << 30  # bytes of compressed arrays once they are unpacked
BLOCK = 1 << 20  # bytes that are digested at once
DIGITS = 32  # of a digest
SEPARATORS = ",;\t"  # of a table's columns
LARGEST_WHOLE = 1 << 53  # beyond it, JSON of other languages rounds whole numbers
# Exceptions that tell of a mistake in this project where one of its own lines raised them.
MISTAKES = (TypeError, AttributeError, NameError, AssertionError, ImportError)
PROJECT = Path(__file__).resolve().parent.parent


class Damaged(ValueError):
    """What a decoder finds wrong with the content of a file, without the name of the file."""


@contextmanager
def decoding(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever broken bytes raise into an InputError that names ``path``.

    Args:
        path: of the file, or what else to call it.
        remedy: a sentence on what to do about a damaged one.

    Raises:
        InputError: for everything but a mistake of this project, which keeps its traceback.
    """
    try:
        with naming(path):
            yield
    except InputError:
        raise
    except Exception as error:
        if _is_mistake(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
        raise InputError(f"{path} is damaged ({reason_of(error)}). {remedy}") from error


def _is_mistake(error: Exception) -> bool:
    """Tell whether an exception comes from a line of this project that is wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    origin = Path(frames[-1].filename)
    inside = origin.is_relative_to(PROJECT) and "site-packages" not in origin.parts
    return inside and isinstance(error, MISTAKES)


def reason_of(error: Exception) -> str:
    """Return what a library says about a damaged file, as part of a sentence."""
    found = re.search(r"WeightsUnpickler error: *(.+)", str(error))  # torch's own words
    text = found[1] if found else (str(error).splitlines() or [""])[0]
    return printable(text)[:200].rstrip(". ") or type(error).__name__


def regular(path: str | Path, missing: str | None = None) -> Path:
    """Return the path of a file that can be opened without waiting.

    Args:
        path: of the file.
        missing: the message where there is none.

    Raises:
        InputError: there is no such file, or it is a folder, a pipe, a device or a socket.
    """
    path = Path(path)
    with decoding(path, "Give another path."):
        if path.is_file():
            return path
        if path.exists():
            kind = "folder" if path.is_dir() else "pipe, a device or a socket"
            raise InputError(f"{path} is a {kind}. Give a file.")
        if path.is_symlink():
            missing = f"{path} is a link to {os.readlink(path)}, which is missing."
        raise InputError(missing or f"There is no file {path}.")


def check_exist(paths: Sequence[Path], what: str, remedy: str) -> None:
    """Raise an InputError that counts the missing files and names the first."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        first = missing[0]
        counted = f"{len(missing)} of {len(paths)} {what} are missing, the first is {first}"
        regular(first, f"{counted}. {remedy}.")


def read_bytes(path: str | Path, largest: float = LARGEST_TEXT) -> bytes:
    """Return the content of a file that is no stand-in for another one.

    Args:
        path: of the file.
        largest: bytes that it may have.

    Raises:
        InputError: it cannot be opened, is larger, or is a web page, a git-LFS pointer or packed.
    """
    path = regular(path)
    if path.stat().st_size > largest:
        raise InputError(f"{path} has more than {largest} bytes, too many for what it should be.")
    with decoding(path, "Give another file."):
        content = path.read_bytes()
    for beginning, what in STAND_INS.items():
        if re.match(beginning, content[:BEGINNING]):
            raise InputError(f"{path} is {what}.")
    return content


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, the first 32 of its hexadecimal digits."""
    digest = hashlib.sha256()
    with decoding(path, "Give another file."), open(regular(path), "rb") as file:
        while part := file.read(BLOCK):
            digest.update(part)
    return digest.hexdigest()[:DIGITS]


def text_digest(*texts: str) -> str:
    """Return the digest of some texts in their order, as long as that of a file."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:DIGITS]


def read_text(path: str | Path) -> str:
    """Return a text file in UTF-8, or in UTF-16 with a byte order mark, without such marks.

    Raises:
        InputError: it cannot be read, or is in another encoding or no text.
    """
    content = read_bytes(path)
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with decoding(path, "Save it as text in UTF-8."):
        text = content.decode("utf-16" if marked else "utf-8")
        if "\0" in text:
            raise Damaged("it has zero bytes")
    return text.replace("\ufeff", "")


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file without surrounding space, see :func:`read_text`.

    Empty lines are left out, and remarks: lines that begin with ``#`` and a space.
    """
    lines = (line.strip() for line in io.StringIO(read_text(path), newline=None))
    return [line for line in lines if line and not re.match(r"#\s|#$", line)]


def read_json(path: str | Path, remedy: str, schema: Any = dict, absent: Any = None) -> Any:
    """Return the JSON value in a file.

    Args:
        path: of the file.
        remedy: a sentence on what to do about a damaged one.
        schema: of the value, see the module; any object by default.
        absent: what stands for a file that is not there; None: that is an error.

    Raises:
        InputError: it cannot be read, is no JSON, or does not agree with the schema.
    """
    if absent is not None and not os.path.exists(path):
        return absent
    text = read_text(path)
    with decoding(path, remedy):
        value = json.loads(text)
        check(value, schema)
    return value


class Row(dict[str, str]):
    """The cells of a table's row by the names of its columns.

    Attributes:
        where: the file and the line in which it begins, counted from 1.
    """

    where: str


def read_table(
    path: str | Path, remedy: str, columns: tuple[str, ...], whole: bool = False
) -> list[Row]:
    """Return the rows of a CSV file with a header; empty ones are left out.

    Whichever of SEPARATORS stands most often in the header separates cells, or what Excel's line
    ``sep=;`` before it names. Names of columns are in Unicode's form NFC, and neither they nor
    cells have outer space.

    Args:
        path: of the file.
        remedy: a sentence on what to do about a damaged one.
        columns: that it has to have.
        whole: a row of too few cells is an error; else it has empty ones at its end.

    Raises:
        InputError: it cannot be read, lacks one of ``columns``, has one twice, or has a row of too
            many cells.
    """
    text = read_text(path)
    said = re.match(r'"?sep=(.)"?\s', text)
    separator = said[1] if said else max(SEPARATORS, key=text.partition("\n")[0].count)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    with decoding(path, remedy):
        if said:
            next(reader)
        names = [unicodedata.normalize("NFC", name.strip()) for name in next(reader, ())]
        named = Counter(filter(None, names))
        for name in (*columns, *named):
            if named[name] != 1:
                raise Damaged(f"{named[name]} columns are called {name!r}")
        where = f"{path}, line {reader.line_num + 1}"
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    if any(cells[len(names) :]) or (whole and len(cells) < len(names)):
                        raise Damaged(f"{where} has {len(cells)} cells, not {len(names)}")
                    rows.append(Row(zip_longest(names, cells[: len(names)], fillvalue="")))
                    rows[-1].where = where
                where = f"{path}, line {reader.line_num + 1}"
        except csv.Error as error:
            raise Damaged(f"{where}: {error}") from error
    return rows


@dataclass(frozen=True)
class Between:
    """The schema of a finite number from ``low`` to ``high``."""

    low: float = -sys.float_info.max
    high: float = sys.float_info.max

    def admits(self, value: Any) -> bool:
        """Tell whether a value is such a number, and no bool."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


WHOLE = Between(-LARGEST_WHOLE, LARGEST_WHOLE)


def check(value: Any, schema: Any, where: str = "content") -> None:
    """Compare a value of JSON, or of a checkpoint, with a schema; see the module.

    Raises:
        Damaged: it differs; the message says where, and what stands there.
    """
    fits, what = _fits(value, schema)
    if not fits:
        raise Damaged(f"{where} is {printable(repr(value))[:60]}, not {what}")
    if isinstance(schema, dict):
        if str in schema:
            schema = dict.fromkeys(value, schema[str])
        for name, inner in schema.items():
            key = name.removesuffix("?")
            one = value.get(key)
            if key == name or one is not None:
                check(one, inner, f"{where}: {key:.40}")
    elif isinstance(schema, list | tuple):
        schemas = schema if isinstance(schema, tuple) else schema * len(value)
        for place, (one, inner) in enumerate(zip(value, schemas, strict=True)):
            check(one, inner, f"{where}[{place}]")


def _fits(value: Any, schema: Any) -> tuple[bool, str]:
    """Tell whether a value agrees with a schema but for what it contains, and what that admits."""
    is_list = isinstance(value, list | tuple)
    if isinstance(schema, dict):
        return isinstance(value, dict), "an object"
    if isinstance(schema, list):
        return is_list, "a list"
    if isinstance(schema, tuple):
        return is_list and len(value) == len(schema), f"a list of {len(schema)}"
    if isinstance(schema, set):
        return value in list(schema), f"one of {', '.join(sorted(map(str, schema)))}"
    if isinstance(schema, Between):
        return schema.admits(value), str(schema)
    if schema is float:
        return Between().admits(value), "a number"
    if schema is int:
        return isinstance(value, int) and WHOLE.admits(value), "a whole number"
    return isinstance(value, schema), f"a {schema.__name__}"


def read_arrays(path: str | Path, remedy: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return those arrays of an npz file that have one of these names.

    What members announce is bounded, and no pickle is read.

    Raises:
        InputError: the file cannot be read.
    """
    path = regular(path)
    with decoding(path, remedy), np.lib.npyio.NpzFile(path) as archive:
        announced = sum(member.file_size for member in archive.zip.infolist())
        if announced > max(LARGEST_ARRAYS, path.stat().st_size):
            raise Damaged("it announces more than it can hold")
        return {name: np.asarray(archive[name]) for name in names if name in archive.files}
