"""The annotation files of MS COCO, ``instances_<split>2014.json``.

A file of 450 MB is streamed: of 600,000 annotations only the regions stay in memory, as run-length
codes of some hundred bytes each.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, BinaryIO

import ijson

from data.coco.dataset import COCO, PUBLISHED_COUNTS, PUBLISHED_PICTURES
from data.coco.masks import Picture, Region, encode
from tool.errors import InputError

# ijson names the place of every value, so its memory grows with the square of the depth of nested
# brackets: these two keep it below some hundred MB, whatever a file holds.
CHUNK = 1 << 14  # bytes of a file that are read at once
DEEPEST = 1000  # brackets that are open at the end of a chunk
LARGEST_SIDE = 65535  # pixels of a JPEG

DOWNLOAD = "Download or unpack it again."
# The lists of a file that are read, with what each of their entries must have.
FORMS = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}


class _Object(dict):
    """A JSON object that notes in ``twice`` which key has a second value."""

    def __init__(self, twice: list[str]) -> None:
        super().__init__()
        self.twice = twice

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.twice.append(key)  # ijson would not notice an error that is raised here
        super().__setitem__(key, value)


class _Shallow:
    """What ijson reads from: a file that ends with an error where too many brackets are open."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position = self.depth = 0  # bytes that are read; brackets that are open

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        self.position += len(chunk)
        self.depth += chunk.count(b"[") + chunk.count(b"{")
        self.depth -= chunk.count(b"]") + chunk.count(b"}")
        if self.depth > DEEPEST:
            raise ValueError("too many brackets are open")
        return chunk


def read_items(path: Path, kind: str, mend: str = DOWNLOAD) -> Iterator[dict[str, Any]]:
    """Yield the entries of one list at the top of an annotation file, in the file's order.

    Whole numbers are int, all others float.

    Args:
        path: a file such as instances_train2014.json.
        kind: the list's key, one of FORMS.
        mend: what to do about a fault.

    Raises:
        InputError: the file is missing, is not whole JSON, or an entry lacks what FORMS asks for.
    """
    twice: list[str] = []
    try:
        with open(path, "rb") as opened:
            file = _Shallow(opened)
            items = ijson.items(file, f"{kind}.item", lambda: _Object(twice), CHUNK, use_float=True)
            for place, entry in enumerate(items, 1):
                if twice:
                    raise ValueError(f"the key {shortened(twice[0])} stands twice in one object")
                _check_form(path, kind, place, entry, mend)
                yield entry
    except OSError as error:
        raise InputError(f"The annotation file {path} cannot be read ({error}).") from error
    except (ijson.JSONError, ValueError) as error:
        why = error.args[0]
        why = why.decode("latin-1") if isinstance(why, bytes) else str(why)
        raise InputError(
            f"{path} is not whole JSON (before byte {file.position}: {why.splitlines()[0]}). {mend}"
        ) from error


def _check_form(path: Path, kind: str, place: int, entry: Any, mend: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {shortened(entry)} in {kind} is no object.")
    for key, form in FORMS[kind].items():
        if type(entry.get(key)) is not form:
            raise InputError(
                f"{path}: entry {place} of {kind} is incomplete: its {key} is "
                f"{shortened(entry[key]) if key in entry else 'missing'}. {mend}"
            )


def read_annotations(path: Path, split: str) -> list[Picture]:
    """Read all pictures of instances_<split>2014.json, in ascending order of their numbers.

    The file is gone through once for each of its three lists, which may stand in any order. An
    InputError says that it is missing or broken, has other categories than COCO, names an unknown
    picture or category, has a region that does not fit its picture, or is the published one and has
    another number of annotated pictures.
    """
    classes = _read_categories(path)
    pictures = _read_pictures(path, split)
    for entry in read_links(path, pictures, classes):
        picture, class_id = pictures[entry["image_id"]], classes[entry["category_id"]]
        try:
            region = read_region(entry, class_id, picture.height, picture.width)
        except ValueError as error:
            name = f"{path}: annotation {entry['id']}"
            raise InputError(f"{name} has {error} ({picture.image_id}).") from error
        picture.regions.append(region)

    annotated = sum(bool(picture.regions) for picture in pictures.values())
    if len(pictures) == PUBLISHED_PICTURES[split] and annotated != PUBLISHED_COUNTS[split]:
        raise InputError(
            f"{path} has annotations of {annotated:,} pictures, the published file of "
            f"{PUBLISHED_COUNTS[split]:,}. Download it again."
        )
    if not annotated:
        raise InputError(f"{path} has no annotation of any picture.")
    return [pictures[number] for number in sorted(pictures)]


def read_links(
    path: Path, pictures: Container[int], categories: Container[int], mend: str = DOWNLOAD
) -> Iterator[dict[str, Any]]:
    """Yield the annotations of a file, which are of such pictures and categories, by their numbers.

    Raises:
        InputError: see :func:`read_items`; or an annotation is of another picture or category,
            stands there twice, or is neither a crowd nor none.
    """
    numbers: set[int] = set()
    for entry in read_items(path, "annotations", mend):
        name = f"{path}: annotation {entry['id']}"
        image, category = entry["image_id"], entry["category_id"]
        for what, value, known in (
            ("picture", image, pictures),
            ("category", category, categories),
        ):
            if value not in known:
                raise InputError(f"{name} is of {what} {value}, which is not in the file. {mend}")
        if entry["id"] in numbers:
            raise InputError(f"{name} stands there twice. {mend}")
        numbers.add(entry["id"])
        crowd = entry.get("iscrowd", 0)
        if type(crowd) not in (int, bool) or crowd not in (0, 1):
            raise InputError(
                f"{name} has an iscrowd of {shortened(crowd)}, which is neither 0 nor 1. {mend}"
            )
        yield entry


def read_region(entry: dict[str, Any], class_id: int, height: int, width: int) -> Region:
    """Return the region of one annotation, of class 1..80, on a picture of that size in pixels.

    Args:
        entry: of :func:`read_links`; ``iscrowd`` may be missing and is 0 then.
        class_id: 1..80.
        height, width: of the picture in pixels.

    Raises:
        ValueError: the region does not fit the picture.
    """
    is_crowd = bool(entry.get("iscrowd", 0))
    return Region(class_id, is_crowd, encode(entry.get("segmentation"), height, width))


def _read_categories(path: Path) -> dict[int, int]:
    """Return category id -> class id 1..80."""
    categories = {entry["id"]: entry["name"] for entry in read_items(path, "categories")}
    expected, found = COCO.class_names, tuple(categories[c] for c in sorted(categories))
    if found != expected:
        pairs = zip((*expected, "nothing"), (*found, "nothing"), strict=False)
        wanted, got = next(pair for pair in pairs if pair[0] != pair[1])
        raise InputError(
            f"{path} has not the 80 categories of MS COCO: {len(found)} of them, and {got!r} in "
            f"place of {wanted!r}. Is it an instances_*.json of 2014?"
        )
    return {category: class_id for class_id, category in enumerate(sorted(categories), 1)}


def _read_pictures(path: Path, split: str) -> dict[int, Picture]:
    """Return image number -> picture without regions."""
    form = re.compile(rf"COCO_{split}2014_\d+\.jpg")
    pictures: dict[int, Picture] = {}
    names: set[str] = set()
    for entry in read_items(path, "images"):
        number, name = entry["id"], entry["file_name"]
        height, width = entry["height"], entry["width"]
        if not form.fullmatch(name):
            raise InputError(
                f"{path}: {name!r} is no picture of {split}2014. Is it the right file?"
            )
        if number in pictures or name in names:
            raise InputError(f"{path} names a picture twice, {name}. Download it again.")
        if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
            raise InputError(
                f"{path}: {name} has {height} x {width} pixels, as no JPEG has. Download it again."
            )
        names.add(name)
        pictures[number] = Picture(name.removesuffix(".jpg"), height, width, regions=[])
    return pictures
