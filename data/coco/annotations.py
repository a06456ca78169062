"""The annotation files of MS COCO, ``instances_<split>2014.json``.

A file of 450 MB is streamed: of 600,000 annotations only the regions stay in memory, as run-length
codes of some hundred bytes each.
"""

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import ijson

from data.coco.dataset import COCO
from data.coco.masks import Picture, Region, encode
from tool.errors import InputError
from tool.reader import Between, Damaged, check, decoding, read_json, regular

# ijson names the place of every value, so its memory grows with the square of the depth of nested
# brackets: these two keep it below some hundred MB, whatever a file holds.
CHUNK = 1 << 14  # bytes of a file that are read at once
DEEPEST = 1000  # brackets that are open at the end of a chunk
SIDE = Between(1, 65535)  # pixels of a JPEG

REMEDY = "Download, unpack or write it again."
# The lists of a file that are read, with what each of their entries must have.
FORMS = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int, "iscrowd?": {0, 1}},
}
# What a file of another tool has of them, whose ids may be of any kind.
LINKED = {
    "categories": [{"id": object, "name": str}],
    "images": [{"id": object, "file_name": str}],
    "annotations": [{"image_id": object, "category_id": object}],
}
OTHER_TOOLS = {  # that stand in the place of COCO's files, by what begins theirs
    "'shapes':": "labelme",
    "'_via_": "VIA",
    "'regions':": "VIA",
    "'region_count'": "VIA",
    "'coordinates':": "CreateML",
    "'result':": "Label Studio",
    "'samples':": "FiftyOne",
    "'classes':": "FiftyOne",
    "'annotator':": "Label Studio",
    "'items':": "Datumaro",
}
BEGINNING = 4000  # letters in which it stands


class _Shallow(FileIO):
    """What ijson reads from: a file that ends with an error where too many brackets are open."""

    depth = 0  # brackets that are open

    def read(self, size: int) -> bytes:
        chunk = super().read(size)
        self.depth += chunk.count(b"[") + chunk.count(b"{")
        self.depth -= chunk.count(b"]") + chunk.count(b"}")
        if self.depth > DEEPEST:
            raise Damaged("too many brackets are open")
        return chunk


def read_items(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of one list at the top of an annotation file, in the file's order.

    Whole numbers are int, all others float.

    Args:
        path: a file such as instances_train2014.json.
        kind: the list's key, one of FORMS.

    Raises:
        InputError: the file is missing, is not whole JSON, or an entry lacks what FORMS asks for or
            has the id of another one.
    """
    numbers: set[int] = set()
    with decoding(path, REMEDY), _Shallow(regular(path)) as file:
        entries = ijson.items(file, f"{kind}.item", buf_size=CHUNK, use_float=True)
        for place, entry in enumerate(entries, 1):
            check(entry, FORMS[kind], f"entry {place} of {kind}")
            if entry["id"] in numbers:
                raise Damaged(f"two {kind} have the id {entry['id']}")
            numbers.add(entry["id"])
            yield entry


def read_annotations(path: Path, split: str) -> list[Picture]:
    """Return all pictures of instances_<split>2014.json, in ascending order of their numbers.

    The file is gone through once for each of its three lists, which may stand in any order. An
    InputError says that it is missing or broken, has other categories than COCO, names an unknown
    picture or category, has a region that does not fit its picture, or has none at all.
    """
    with decoding(path, REMEDY):
        names = {entry["id"]: entry["name"] for entry in read_items(path, "categories")}
        if tuple(names[number] for number in sorted(names)) != COCO.class_names:
            raise Damaged("not the 80 categories of MS COCO; is it an instances_*.json of 2014?")
        classes = {number: class_id for class_id, number in enumerate(sorted(names), 1)}
        pictures: dict[int, Picture] = {}
        for entry in read_items(path, "images"):
            number, name = entry["id"], entry["file_name"]
            image_id = f"COCO_{split}2014_{number:012d}"
            if name != f"{image_id}.jpg":
                raise Damaged(f"{name!r:.60} is no picture of {split}2014; is it the right file?")
            check(entry, {"height": SIDE, "width": SIDE}, name)
            pictures[number] = Picture(image_id, entry["height"], entry["width"], regions=[])
        for entry in read_items(path, "annotations"):
            image, category = entry["image_id"], entry["category_id"]
            if image not in pictures or category not in classes:
                raise Damaged(
                    f"annotation {entry['id']} is of picture {image} and category {category}, "
                    "which are not both listed"
                )
            picture, class_id = pictures[image], classes[category]
            name = f"annotation {entry['id']} of {picture.image_id}"
            code = encode(entry.get("segmentation"), picture.height, picture.width, name)
            picture.regions.append(Region(class_id, bool(entry.get("iscrowd")), code))

        if not any(picture.regions for picture in pictures.values()):
            raise Damaged("no annotation of any picture")
    return [pictures[number] for number in sorted(pictures)]


Entries = dict[str, dict[str, Any]]  # by their ids, as texts


def read_linked(path: Path, remedy: str) -> tuple[Entries, Entries, list[tuple[str, str, dict]]]:
    """Return what a file in COCO's format holds, whatever tool has written it.

    Args:
        path: of the file, all of which is held in memory.
        remedy: a sentence on what to do about a damaged one.

    Returns:
        Pictures, categories, and annotations behind the ids of their picture and category.

    Raises:
        InputError: it lacks what LINKED asks for, is of a tool's own format, has two entries of one
            id, or annotations of pictures or categories that are not there.
    """
    content = read_json(path, remedy, object)
    if not (isinstance(content, dict) and isinstance(content.get("categories"), list)):
        refuse_other_tools(path, content)
    with decoding(path, remedy):
        check(content, LINKED)
        pictures, categories = _by_id(content["images"]), _by_id(content["categories"])
        links = []
        for entry in content["annotations"]:
            picture, category = _key(entry["image_id"]), _key(entry["category_id"])
            if picture not in pictures or category not in categories:
                raise Damaged(
                    f"an annotation is of picture {picture} and category {category}, which are not "
                    "both listed"
                )
            links.append((picture, category, entry))
    return pictures, categories, links


def refuse_other_tools(path: Path, content: object) -> None:
    """Raise an InputError where the content of a file begins as those of OTHER_TOOLS do."""
    beginning = repr(content)[:BEGINNING]
    for mark, tool in OTHER_TOOLS.items():
        if mark in beginning:
            raise InputError(f"{path} is in {tool}'s own format. Export COCO's, or a table.")


def _key(value: Any) -> str:
    """Return an id as text, in which 1, 1.0 and "1" are equal."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Damaged(f"{value!r:.60} is no id")
    return str(value).strip().removesuffix(".0")


def _by_id(entries: list[dict[str, Any]]) -> Entries:
    found = {_key(entry["id"]): entry for entry in entries}
    if len(found) < len(entries):
        raise Damaged("two pictures or two categories have one id")
    return found
