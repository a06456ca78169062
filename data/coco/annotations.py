"""Annotation files in COCO's format: ``instances_<split>2014.json``, and those of other tools."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data.coco.dataset import COCO
from data.coco.masks import Picture, Region, encode
from tool.errors import InputError
from tool.reader import Between, Damaged, check, decoding, read_json

SIDE = Between(1, 65535)  # pixels of a JPEG
SIDES = {"height": SIDE, "width": SIDE}
REMEDY = "Download, unpack or write it again."
FORM = {
    "categories": [{"name": str}],
    "images": [{"file_name": str}],
    "annotations": [dict],
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

Entries = dict[str, dict[str, Any]]  # by their ids, as texts


class Linked(NamedTuple):
    """What a file holds: annotations stand behind the ids of their picture and category."""

    pictures: Entries
    categories: Entries
    annotations: list[tuple[str, str, dict[str, Any]]]


def read_linked(path: Path, remedy: str) -> Linked:
    """Return what a file in COCO's format holds, whatever tool has written it.

    Args:
        path: of the file, all of which is held in memory.
        remedy: a sentence on what to do about a damaged one.

    Raises:
        InputError: it lacks what FORM asks for, is of a tool's own format, has two entries of one
            id, or annotations of pictures or categories that are not there.
    """
    content = read_json(path, remedy, object)
    if not (isinstance(content, dict) and isinstance(content.get("categories"), list)):
        refuse_other_tools(path, content)
    with decoding(path, remedy):
        check(content, FORM)
        pictures, categories = _by_id(content["images"]), _by_id(content["categories"])
        links = []
        for entry in content["annotations"]:
            picture, category = _key(entry, "image_id"), _key(entry, "category_id")
            if picture not in pictures or category not in categories:
                raise Damaged(
                    f"annotation {entry.get('id')} is of picture {picture} and category "
                    f"{category}, which are not both listed"
                )
            links.append((picture, category, entry))
    return Linked(pictures, categories, links)


def refuse_other_tools(path: Path, content: object) -> None:
    """Raise an InputError where the content of a file begins as those of OTHER_TOOLS do."""
    beginning = repr(content)[:BEGINNING]
    for mark, tool in OTHER_TOOLS.items():
        if mark in beginning:
            raise InputError(f"{path} is in {tool}'s own format. Export COCO's, or a table.")


def _key(entry: dict[str, Any], name: str = "id") -> str:
    """Return an id in an entry as text, in which 1, 1.0 and "1" are equal."""
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Damaged(f"{name} of {entry!r:.60}: {value!r:.60} is no id")
    return str(value).strip().removesuffix(".0")


def _by_id(entries: list[dict[str, Any]]) -> Entries:
    found = {_key(entry): entry for entry in entries}
    if len(found) < len(entries):
        raise Damaged("two pictures or two categories have one id")
    return found


def pictures_of(content: Linked, class_id_of: Callable[[str], int]) -> list[Picture]:
    """Return the pictures of a file with their regions, in the file's order.

    Args:
        content: of the file.
        class_id_of: gives the class id of a category's name.

    Raises:
        ValueError: a picture has no size, or a region does not fit its picture.
    """
    pictures = {}
    for key, entry in content.pictures.items():
        name = entry["file_name"]
        check(entry, SIDES, name)
        pictures[key] = Picture(name, entry["height"], entry["width"], regions=[])
    for key, category, entry in content.annotations:
        picture = pictures[key]
        where = f"annotation {entry.get('id')} of {picture.image_id}"
        code = encode(entry.get("segmentation"), picture.height, picture.width, where)
        class_id = class_id_of(content.categories[category]["name"])
        picture.regions.append(Region(class_id, bool(entry.get("iscrowd")), code))
    return list(pictures.values())


def read_annotations(path: Path, split: str) -> list[Picture]:
    """Return all pictures of instances_<split>2014.json, in ascending order of their numbers.

    Raises:
        InputError: see :func:`read_linked`; or it has other categories than COCO, other pictures
            than those of the split, a region that does not fit its picture, or none at all.
    """
    content, pictures = read_linked(path, REMEDY), []
    class_ids = {name: class_id for class_id, name in enumerate(COCO.class_names, 1)}
    with decoding(path, REMEDY):
        if {entry["name"] for entry in content.categories.values()} != class_ids.keys():
            raise Damaged("not the 80 categories of MS COCO; is it an instances_*.json of 2014?")
        found = pictures_of(content, class_ids.__getitem__)
        for number, picture in zip(content.pictures, found, strict=True):
            image_id, name = f"COCO_{split}2014_{int(number):012d}", picture.image_id
            if name != f"{image_id}.jpg":
                raise Damaged(f"{name!r:.60} is no picture of {split}2014; is it the right file?")
            pictures.append(picture._replace(image_id=image_id))
        if not any(picture.regions for picture in pictures):
            raise Damaged("no annotation of any picture")
    return sorted(pictures)
