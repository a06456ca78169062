"""The texts of a folder of pictures: names of classes, cells of labels, colours of masks."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from data.lists import plain
from tool.checkpoint import some
from tool.errors import InputError, apart, collected
from tool.picture_files import MASK_FORMATS, picture_file
from tool.pictures import UNSURE
from tool.reader import read_table, read_text

MOST_CLASSES = 254  # 255 is "unsure" in an 8-bit mask, 0 is background
BACKGROUND = ("background", "bg")
VOID = ("void", "ignore", "ignored", "unlabeled")  # 255 in colours.csv and annotations
NAME_SEPARATORS = ";,|"
REMEDY = "Correct it, see docs/own_pictures.md."
CHANNELS = ("r", "g", "b")  # columns of colours.csv beside the name
LEVELS = frozenset(map(str, range(256)))
LABELMAP = re.compile(r"^(.*?):([\d,]+):[^:\n]*:[^:\n]*$", re.M)  # of labelmap.txt: name, colour


def check_names(where: str | Path, names: Sequence[str]) -> None:
    """Refuse names of classes that are none.

    Raises:
        InputError: there are none or too many, or one is background, has odd spaces, or stands
            there twice, be it in another case or in another form of Unicode.
    """
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(f"{where} has {len(names)} classes; 1 to {MOST_CLASSES} are possible.")
    before = {}  # names by what makes them equal
    with collected() as keeping:
        for name in names:
            key = plain(name).casefold()
            one, other = apart(name, before.get(key, name))
            fault = None
            if not {key, key.strip("_- ")}.isdisjoint((*BACKGROUND, "__ignore__")):
                fault = (
                    "is class 0 without being named. Take it off, and compare the ids of the masks"
                )
            elif not name or " ".join(name.split()) != name:
                fault = "is empty, or has a tab or two spaces in a row"
            elif key in before:
                fault = f"stands twice, as '{other}' before"
            before[key] = name
            with keeping(where):
                if fault:
                    raise InputError(f"{where}: '{one}' {fault}.")


def names_in(cell: str, classes: Collection[str]) -> set[str]:
    """Return the classes that a cell of labels.csv names, by the rule of docs/own_pictures.md.

    They are in Unicode's form NFC.

    Raises:
        InputError: none of the readings gives classes only, or two give different ones.
    """
    ways = [cell.split(separator) for separator in NAME_SEPARATORS if separator in cell]
    ways += [cell.split(), [cell]]
    readings = [{plain(name.strip()) for name in way} - {""} for way in ways]
    fitting = [names for names in readings if names.issubset(classes)]
    if not fitting:
        raise InputError(
            f"{min(readings[0].difference(classes))!r} is not in classes.txt; names with spaces "
            "need a ; behind each name."
        )
    if any(names != fitting[0] for names in fitting):
        raise InputError(f"{cell!r} can be read in two ways. Put ; behind every class name.")
    return fitting[0]


def id_of(name: str, classes: Sequence[str]) -> int:
    """Return the id of a class, of background (0), or of VOID (255), with ``_`` around it or not.

    Another name than these and the K foreground classes is an InputError.
    """
    known = dict.fromkeys(VOID, UNSURE) | dict.fromkeys(BACKGROUND, 0)
    known |= {class_name: number for number, class_name in enumerate(classes, 1)}
    name = plain(name)
    found = known.get(name, known.get(name.strip("_")))
    if found is None:
        raise InputError(
            f"{name!r} is no class, nor background or void; the classes are {some(classes)}."
        )
    return found


class Colours:
    """The colours of masks, from a table ``name,r,g,b``, or CVAT's ``labelmap.txt``.

    Names are those of :func:`id_of`.

    Args:
        path: of the table.
        classes: the K foreground classes.

    Raises:
        InputError: it is no such table, names an unknown class, or a colour stands there twice.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path = path
        self.ids = {}  # (red, green, blue) -> class id
        if path.suffix == ".txt":
            lines = LABELMAP.findall(read_text(path))
            rows = [(str(path), name, levels.split(",")) for name, levels in lines]
        else:
            table = read_table(path, REMEDY, ("name", *CHANNELS), whole=True)
            rows = [(row.where, row["name"], [row[c] for c in CHANNELS]) for row in table]
        with collected() as keeping:
            for where, name, levels in rows:
                with keeping(where):
                    if len(levels) != len(CHANNELS) or not LEVELS.issuperset(levels):
                        raise InputError(f"{','.join(levels)} is no red,green,blue of 0 to 255.")
                    number = id_of(name, classes)
                    if self.ids.setdefault(tuple(map(int, levels)), number) != number:
                        raise InputError(f"the colour {','.join(levels)} has another name above.")

    def read(self, path: Path) -> np.ndarray:
        """Return a coloured mask as class ids, uint8 (H, W), 255 where not judged, upright.

        Transparency is left out, and a palette's numbers become its colours.

        Raises:
            InputError: it is no such picture, or has a colour that is not in the table.
        """
        with picture_file(path, MASK_FORMATS) as file:
            rgb = file.upright(np.asarray(file.image.convert("RGB")))
        ids, known = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], bool)
        for colour, number in self.ids.items():
            here = (rgb == colour).all(2)
            ids[here], known[here] = number, True
        if not known.all():
            y, x = np.argwhere(~known)[0].tolist()
            raise InputError(
                f"{path} has the colour {','.join(map(str, rgb[y, x]))} at column {x}, row {y}, "
                f"which is not in {self.path}. Add it, or draw the mask without soft edges."
            )
        return ids
