"""The texts of a folder of pictures: tables of labels and of colours, and names of classes."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.lists import plain
from tool.checkpoint import some
from tool.errors import InputError, apart
from tool.picture_files import (
    MASK_FORMATS,
    bits_of,
    open_picture,
    orientation_of,
    picture_file,
)
from tool.pictures import UNSURE, upright
from tool.reader import decoding, read_text

MOST_CLASSES = 254  # 255 is "unsure" in an 8-bit mask, 0 is background
BACKGROUND = ("background", "bg", "__ignore__")
VOID = ("void", "ignore", "unlabeled")  # 255 in colours.csv
COLUMN_SEPARATORS = (",", ";", "\t")
NAME_SEPARATORS = (";", ",", "|")
LEVELS = frozenset(map(str, range(256)))
SHIFTS = np.array([1 << 16, 1 << 8, 1], np.uint32)  # make one number of red, green and blue

Rows = list[tuple[str, dict[str, str]]]  # where each row stands, and its cells by column


def check_names(where: str | Path, names: Sequence[str]) -> None:
    """Refuse names of classes that are none.

    Raises:
        InputError: there are none or too many, or one is background, has odd spaces, or stands
            there twice, be it in another case or in another form of Unicode.
    """
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(f"{where} has {len(names)} classes; 1 to {MOST_CLASSES} are possible.")
    before: dict[str, str] = {}
    for name in names:
        key = plain(name).casefold()
        if key in BACKGROUND or key.strip("_- ") in BACKGROUND:
            raise InputError(
                f"{where}: take {name} off, it is class 0 without being named. Those behind it "
                "move up by one: compare them with the masks' ids."
            )
        if not name or " ".join(name.split()) != name:
            raise InputError(f"{where}: {name!r} is empty, or has a tab or two spaces in a row.")
        if key in before:
            one, other = apart(name, before[key])
            raise InputError(f"{where}: '{one}' stands twice, as '{other}' before.")
        before[key] = name


def read_table(path: Path, columns: Iterable[str]) -> tuple[list[str], Rows]:
    """Return the names of a table's columns, in Unicode's form NFC, and its rows.

    Cells are without outer space, and those that a row lacks at its end are not in its dict.

    Args:
        path: of a file whose columns are separated by one of COLUMN_SEPARATORS.
        columns: that it has to have.

    Raises:
        InputError: no separator gives these columns, one stands twice, or the rows are no table.
    """
    text = read_text(path)
    for separator in COLUMN_SEPARATORS:
        dialect = {"delimiter": separator, "skipinitialspace": True}
        with decoding(path, "Write it again."):
            header = next(csv.reader(io.StringIO(text, newline=""), **dialect), [])
        names = [plain(name.strip()) for name in header]
        if set(columns).issubset(names):
            break
    else:
        raise InputError(
            f"{path} has no header line with {', '.join(columns)}; see docs/own_pictures.md."
        )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise InputError(f"{path}: the column {twice!r} stands twice. Take one away.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    return names, list(_rows(path, reader, names))


def _rows(path: Path, reader: Any, names: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows behind the header, without those that are empty."""
    next(reader)
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        with decoding(where, "Check its quotation marks."):
            row = next(reader, None)
        if row is None:
            return
        cells = [cell.strip() for cell in row]
        if any(cells[len(names) :]):
            raise InputError(
                f"{where} has more cells than the header has names. Put spaces between class names."
            )
        if any(cells):
            yield where, dict(zip(names, cells, strict=False))


def names_in(cell: str | None, where: str, classes: Sequence[str]) -> set[str]:
    """Return the classes that a cell of labels.csv names, by the rule of docs/own_pictures.md.

    They are in Unicode's form NFC.

    Raises:
        InputError: there is no cell, none of the readings gives classes only, or two give
            different ones.
    """
    if cell is None:
        raise InputError(
            f"{where} has no cell of labels; one that is empty, behind a separator, says that the "
            "picture has no class."
        )
    if not cell.strip("".join(NAME_SEPARATORS) + " "):
        return set()
    parts = [cell.split(separator) for separator in NAME_SEPARATORS if separator in cell]
    readings = [
        {plain(name.strip()) for name in names} - {""} for names in (*parts, cell.split(), [cell])
    ]
    fitting = [names for names in readings if names.issubset(classes)]
    if any(names != fitting[0] for names in fitting):
        raise InputError(
            f"{where}: {cell!r} can be read in two ways. Put ; behind every class name."
        )
    if not fitting:
        raise InputError(
            f"{where}: {min(readings[0].difference(classes))!r} is not in classes.txt; names with "
            "spaces need a ; behind each name."
        )
    return fitting[0]


class Colours:
    """The colours of masks, from a table ``name,r,g,b``.

    Names are those of classes, of background, and of VOID, which becomes 255.

    Args:
        path: of the table.
        classes: the K foreground classes.

    Raises:
        InputError: it is no such table, names an unknown class, or a colour stands there twice.
    """

    columns = ("name", "r", "g", "b")

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path = path
        self.ids: dict[int, int] = {}  # red, green and blue as one number -> class id
        known = dict.fromkeys(VOID, UNSURE) | dict.fromkeys(BACKGROUND, 0)
        known |= {name: number for number, name in enumerate(classes, 1)}
        for where, row in read_table(path, self.columns)[1]:
            name, *colour = (plain(row.get(column, "")) for column in self.columns)
            if not LEVELS.issuperset(colour):
                raise InputError(f"{where}: {','.join(colour)} is no red,green,blue of 0 to 255.")
            if name not in known:
                raise InputError(
                    f"{where}: {name!r} is no class, nor background or void; the classes are "
                    f"{some(classes)}."
                )
            code = int.from_bytes(map(int, colour), "big")
            if self.ids.setdefault(code, known[name]) != known[name]:
                raise InputError(f"{where}: the colour {','.join(colour)} has another name above.")
        if not self.ids:
            raise InputError(f"{path} has no colour.")

    def read(self, path: Path) -> np.ndarray:
        """Return a coloured mask as class ids, uint8 (H, W), 255 where not judged, upright.

        Transparency is left out, and a palette's numbers become its colours.

        Raises:
            InputError: it is no such picture, or has a colour that is not in the table.
        """
        with picture_file(path):
            image = open_picture(path, MASK_FORMATS)
            if bits_of(path, image) > 8:
                raise InputError(f"{path} has more than 8 bits; colours of masks are of 8 bits.")
            rgb = upright(image, orientation_of(image)).convert("RGB")
        codes = np.asarray(rgb, np.uint32) @ SHIFTS
        found, places = np.unique(codes, return_inverse=True)
        unknown = [code for code in found.tolist() if code not in self.ids]
        if unknown:
            y, x = np.argwhere(codes == unknown[0])[0].tolist()
            raise InputError(
                f"{path} has the colour {','.join(map(str, unknown[0].to_bytes(3, 'big')))} at "
                f"column {x}, row {y}, and {len(unknown)} colours in all that are not in "
                f"{self.path}. Add them to the table, or draw the mask without soft edges."
            )
        ids = np.array([self.ids[code] for code in found.tolist()], np.uint8)
        return ids[places].reshape(codes.shape)
