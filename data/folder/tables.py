"""The texts of a folder of pictures: tables of labels and of colours, and names of classes."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
from tool.reader import Damaged, decoding, read_text

MOST_CLASSES = 254  # 255 is "unsure" in an 8-bit mask, 0 is background
BACKGROUND = ("background", "bg", "__ignore__")
VOID = ("void", "ignore", "ignored", "unsure", "unlabeled", "unlabelled")  # 255 in colours.csv
COLUMN_SEPARATORS = (",", ";", "\t")
NAME_SEPARATORS = (";", ",", "|")
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
    for number, name in enumerate(names):
        key = plain(name).casefold()
        if key in BACKGROUND or key.strip("_- ") in BACKGROUND:
            agree = "those behind it move up by one: compare them with the masks' ids"
            if number == 0:
                agree = "the ids of the others are then 1, 2, ... as in masks with background 0"
            raise InputError(
                f"{where}: take {name} off, it is class 0 without being named; {agree}."
            )
        if not name:
            raise InputError(f"{where}: a name is empty.")
        if " ".join(name.split()) != name:
            raise InputError(f"{where}: {name!r} has a tab, or two spaces in a row.")
        if key in before:
            one, other = apart(name, before[key])
            raise InputError(f"{where}: '{one}' stands twice, as '{other}' before.")
        before[key] = name


def read_table(path: Path, fits: Callable[[list[str]], bool], form: str) -> tuple[list[str], Rows]:
    """Return the names of a table's columns, and its rows.

    Names are in Unicode's form NFC, ``image`` and ``labels`` in small letters. Cells are without
    outer space, and those that a row lacks at its end are not in its dict.

    Args:
        path: of a file whose columns are separated by one of COLUMN_SEPARATORS.
        fits: tells whether names are those of such a table.
        form: of the first line, for the message.

    Raises:
        InputError: no separator gives names that fit, one stands twice, or the rows are no table.
    """
    text = read_text(path)
    with decoding(path, "Write it again."):
        for separator in COLUMN_SEPARATORS:
            dialect = {"delimiter": separator, "skipinitialspace": True}
            header = next(csv.reader(io.StringIO(text, newline=""), **dialect), [])
            names = [plain(name.strip()) for name in header]
            names = [n.lower() if n.lower() in ("image", "labels") else n for n in names]
            if not fits(names):
                continue
            twice = next((name for name in names if name and names.count(name) > 1), None)
            if twice:
                raise InputError(f"{path}: the column {twice!r} stands twice. Take one away.")
            file = io.StringIO(text, newline="")
            rows = csv.DictReader(file, names, strict=True, **dialect)
            return names, list(_rows(path, rows))
    raise InputError(f"{path} has no header line {form}.")


def _rows(path: Path, rows: csv.DictReader) -> Iterator[tuple[str, dict[str, str]]]:
    begin = 1
    try:
        next(rows)  # the header
        begin = rows.line_num + 1
        for row in rows:
            begin, where = rows.line_num + 1, f"{path}, line {rows.line_num}"
            beyond = row.pop(None, ())
            cells = {name: cell.strip() for name, cell in row.items() if cell is not None}
            if any(cell.strip() for cell in beyond):
                raise InputError(
                    f"{where} has more cells than the header has names. Put spaces between class "
                    "names."
                )
            named = cells.get("image", "") + cells.get("labels", "")  # a remark may have lines
            if "\n" in named or "\r" in named:
                raise InputError(f"{where}: a quotation mark is open from an earlier line on.")
            if any(cells.values()):
                yield where, cells
    except csv.Error as error:
        raise Damaged(
            f"line {begin}: {error}; a quotation mark is not closed, or stands inside a cell"
        ) from error


def names_in(cell: str, where: str, classes: Sequence[str]) -> set[str]:
    """Return the classes that a cell of labels.csv names, by the rule of docs/own_pictures.md.

    They are in Unicode's form NFC.

    Raises:
        InputError: none of the readings gives classes only, or two give different ones.
    """
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
        _, rows = read_table(
            path, lambda names: set(self.columns) <= set(names), ",".join(self.columns)
        )
        known = dict.fromkeys(VOID, UNSURE) | dict.fromkeys(BACKGROUND, 0)
        known |= {name: number for number, name in enumerate(classes, 1)}
        for where, row in rows:
            name, *colour = (plain(row.get(column, "")) for column in self.columns)
            if not all(re.fullmatch(r"\d{1,3}", part) and int(part) <= 255 for part in colour):
                raise InputError(f"{where}: {','.join(colour)} is no red,green,blue of 0 to 255.")
            number = known.get(name, known.get(name.casefold()))
            if number is None:
                raise InputError(
                    f"{where}: {name!r} is no class, nor background or void; the classes are "
                    f"{some(classes)}."
                )
            code = int.from_bytes(map(int, colour), "big")
            if self.ids.setdefault(code, number) != number:
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
