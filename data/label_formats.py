"""Labels in the formats of annotation tools and trainers, written for them and read from them.

Every format has a function that writes the labels of a list, and one that yields what people made
of them: ids and labels, uint8 (H, W). No format but VOC's knows pixels that are unsure; they become
background.

Outlines are those of OpenCV, through the centres of a region's border pixels. COCO's polygons are
read in coordinates in which a pixel is a square, so there they run a quarter of a pixel inside its
border. A region with holes is one outline, joined to that of each hole by a line that is run
through twice.
"""

import ast
import base64
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from data.base import Dataset
from data.coco.annotations import read_linked
from data.coco.masks import Picture, Region, draw_mask, encode
from data.folder.tables import Colours, id_of
from data.lists import files_in, picture_path
from tool.errors import InputError, naming
from tool.pictures import UNSURE, check_label, save_label, save_rgb, voc_palette
from tool.reader import Damaged, decoding, read_json, read_lines, read_text, regular
from tool.writer import write_atomic, write_json, write_lines, write_table

Labels = Iterator[tuple[str, np.ndarray]]  # ids of a dataset's pictures, and uint8 (H, W)

LISTED = "default"  # name of the list in VOC's and CVAT's layout
# What a class name may not have: control characters, ends of lines, and halves of characters; in
# labelmap.txt also what separates fields, begins a comment, or is cut off.
UNWRITABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
UNFIT_FOR_LABELMAP = rf"{UNWRITABLE}|:|^#|^\s|\s$"
REMEDY = "Write it again with the annotation tool."
SHAPE = {"label": str, "points": [(float, float)], "shape_type?": str, "mask?": str}
LABELME = {"imagePath": str, "shapes": [SHAPE], "imageHeight?": int, "imageWidth?": int}
POINTS = {"rectangle": 2, "circle": 2, "mask": 2}  # of labelme's shapes that have as many always
OUTLINES = ("polygon", "oriented_rectangle")  # which have more
YAML_ROW = re.compile(r"\s*(?:-|(\d+):)\s+(.+)")  # a name of a list of YAML, or of a mapping
CORNERS = 64  # of the outline of a circle
AREAS = ("picture", "class", "pixels", "share")

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """A picture and its label."""

    image_id: str
    picture: Path
    label: np.ndarray  # uint8 (H, W), 255 unsure

    def regions(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (class id, bool (H, W)) of every class that is there."""
        for key in np.unique(self.label).tolist():
            if key not in (0, UNSURE):
                yield key, self.label == key

    def outlined(self, epsilon: float) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (class id, outline) of every part of a class."""
        for key, region in self.regions():
            for points in outlines(region, epsilon):
                yield key, points


def check_names(file_format: str, names: Sequence[str]) -> None:
    """Raise an InputError of a class name, of those with background, that a format cannot hold."""
    unfit = UNFIT_FOR_LABELMAP if file_format in ("cvat", "voc") else UNWRITABLE
    for name in names:
        if re.search(unfit, name):
            raise InputError(
                f"The class name {name!r} cannot be written with --format {file_format}. Rename "
                "the class, or take another format."
            )


# ---------------------------------------------------------------------------- outlines


def outlines(region: np.ndarray, epsilon: float, enlarged: int = 1) -> list[np.ndarray]:
    """Return one closed outline for each part of a region, float (N > 2, 2), (x, y) in pixels.

    Args:
        region: bool (H, W).
        epsilon: largest distance in pixels from the exact outline, by Douglas and Peucker.
        enlarged: 1 for outlines through the centres of border pixels, whose coordinates are whole
            numbers; 2 for such that run a quarter of a pixel inside the border, in coordinates in
            which pixel i reaches from i to i + 1.
    """
    pixels = region.astype(np.uint8).repeat(enlarged, 0).repeat(enlarged, 1)
    contours, tree = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    simple = [_simplified(contour, epsilon * enlarged) for contour in contours]
    found = []
    for number, (_, _, hole, parent) in enumerate(tree[0]):
        if parent >= 0:
            continue
        outline = simple[number]
        while hole >= 0:
            outline = _joined(outline, simple[hole])
            hole = tree[0][hole][0]
        found.append(outline if enlarged == 1 else (outline + 0.5) / enlarged)
    return found


def _simplified(contour: np.ndarray, epsilon: float) -> np.ndarray:
    """Return at least three points: one or two, which are a line of pixels, stand there again."""
    fewer = cv2.approxPolyDP(contour, epsilon, closed=True) if epsilon else contour
    points = (fewer if len(fewer) > 2 else contour)[:, 0].astype(np.float64)  # (N, 2)
    return points if len(points) > 2 else np.repeat(points, 4 // len(points), 0)


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return an outline that goes to the hole, around it, and back, where they are nearest."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(2)
    here, there = np.unravel_index(distances.argmin(), distances.shape)
    around = np.roll(hole, -there, axis=0)
    return np.concatenate([outline[: here + 1], around, around[:1], outline[here:]])


def fill(label: np.ndarray, outline: np.ndarray, key: int) -> None:
    """Give the pixels on and within an outline through pixel centres, (N, 2), a class id.

    ``label``, uint8 (H, W), is changed. A point far outside of it raises :class:`Damaged`.
    """
    if not np.abs(outline).max() <= 2 * max(label.shape):
        raise Damaged("a point lies far outside the picture")
    cv2.fillPoly(label, [np.rint(outline).astype(np.int32)], key)


# ---------------------------------------------------------------------------- formats


def picture_of(dataset: Dataset, name: str, *sides: int | None) -> tuple[str, tuple[int, int]]:
    """Return the id and (H, W) of the picture that an annotation file calls ``name``.

    An InputError says that there is none, or that height or width are not ``sides``, if given.
    """
    image_id = dataset.id_of(picture_path(name))
    path = dataset.image_path(image_id)
    regular(path, f"{name} is annotated, and {dataset.root} has no such picture.")
    width, height = dataset.read(image_id).size
    if any(side not in (None, own) for side, own in zip(sides, (height, width), strict=False)):
        raise InputError(
            f"{path} has (height, width) {height, width}, and {sides} in its annotation. Annotate "
            "the picture as it is."
        )
    return image_id, (height, width)


def files_of(folder: Path, ending: str) -> list[Path]:
    """Return the files with an ending in a folder and in those within, but hidden ones."""
    return [path for path in files_in(folder) if path.suffix.lower() == ending]


def write_coco(
    items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float | None
) -> None:
    """Write COCO's JSON: an annotation for each class of a picture.

    Regions are polygons, see :func:`outlines` for ``epsilon``, or run lengths where it is None.
    """
    images, annotations = [], []
    for number, item in enumerate(items, 1):
        height, width = item.label.shape
        images.append(
            {"id": number, "file_name": item.picture.name, "height": height, "width": width}
        )
        for key, region in item.regions():
            rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
            shape = {"size": rle["size"], "counts": rle["counts"].decode()}
            if epsilon is not None:
                parts = outlines(region, epsilon, enlarged=2)
                shape = [points.round(2).ravel().tolist() for points in parts]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": key,
                    "segmentation": shape,
                    "area": float(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "labels of image-level supervision"},
        "categories": [{"id": key, "name": name} for key, name in enumerate(names[1:], 1)],
        "images": images,
        "annotations": annotations,
    }
    out.write_text(json.dumps(content))


def read_coco(path: Path, dataset: Dataset) -> Labels:
    """Yield the labels of COCO's JSON, alone in its folder; small regions cover large ones."""
    files = [path] if path.is_file() else files_of(path, ".json")
    if len(files) != 1:
        raise InputError(f"{path} holds {len(files)} JSON files. Name the one in COCO's format.")
    (path,) = files
    entries, categories, annotations = read_linked(path, REMEDY)
    pictures = {}
    for number, entry in entries.items():
        with naming(path):
            sides = entry.get("height"), entry.get("width")
            image_id, size = picture_of(dataset, entry["file_name"], *sides)
        pictures[number] = Picture(image_id, *size, [])
    bare, regions = [], 0
    for number, category, entry in annotations:
        picture = pictures[number]
        where = f"annotation {entry.get('id')} of {picture.image_id}"
        with decoding(path, REMEDY):
            code = encode(entry.get("segmentation"), picture.height, picture.width, where)
            key = id_of(categories[category]["name"], dataset.class_names)
        picture.regions.append(Region(key, is_crowd=False, code=code))
        regions += 1
        if code is None:
            bare.append(where)
    if bare:
        lacking = f"{path}: {len(bare)} of {regions} regions, such as {bare[0]}, have no outline"
        if len(bare) == regions:
            raise InputError(f"{lacking}. Labels need outlines, not boxes alone.")
        log.warning("%s, and are left out", lacking)
    for picture in pictures.values():
        yield picture.image_id, draw_mask(picture.regions, picture.height, picture.width)


def write_yolo(items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float) -> None:
    """Write Ultralytics' segmentation layout: data.yaml, links to pictures, a text a picture.

    A line is a class id from 0 and an outline, x and y as shares of width and height.
    """
    for item in items:
        lines = []
        for key, points in item.outlined(epsilon):
            shares = (points + 0.5) / item.label.shape[::-1]
            numbers = " ".join(f"{share:.6f}" for share in shares.ravel())
            lines.append(f"{key - 1} {numbers}")
        write_lines(out / f"labels/{item.image_id}.txt", lines)
        link = out / f"images/{item.image_id}{item.picture.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(item.picture.resolve())
    classes = json.dumps(names[1:], ensure_ascii=False)  # a list of JSON is one of YAML too
    header = ["path: .", "train: images", "val: images", f"names: {classes}"]
    write_lines(out / "data.yaml", header)


def read_yolo(folder: Path, dataset: Dataset) -> Labels:
    """Yield the labels of the outlines in folders called labels; small ones cover large ones."""
    names = _names_in(folder / "data.yaml")
    for path in files_of(folder, ".txt"):
        if "labels" not in path.relative_to(folder).parts:
            continue  # it is a list
        found = []
        with decoding(path, REMEDY):
            image_id, size = picture_of(dataset, path.stem)
            for line in read_lines(path):
                number, *shares = line.split()
                points = np.array(shares, float).reshape(-1, 2) * size[::-1] - 0.5
                if len(points) < 3 or number not in names:
                    raise Damaged(f"{line!r:.60} is not a class of data.yaml and its outline")
                found.append((id_of(names[number], dataset.class_names), points))
            label = np.zeros(size, np.uint8)
            found.sort(key=lambda one: -cv2.contourArea(one[1].astype(np.float32)))
            for key, points in found:
                fill(label, points, key)
        yield image_id, label


def _names_in(path: Path) -> dict[str, str]:
    """Return the names of classes by their numbers, from a list of YAML in one line or many."""
    text = read_text(path)
    with decoding(path, REMEDY):
        first, *rest = text.partition("\nnames:")[2].strip().splitlines()
        if first.startswith("["):
            return {str(number): name for number, name in enumerate(ast.literal_eval(first))}
        rows = takewhile(bool, (YAML_ROW.match(line) for line in [first, *rest]))
        return {row[1] or str(place): row[2].strip(" '\"") for place, row in enumerate(rows)}


def write_labelme(
    items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float
) -> None:
    """Write labelme's JSON, one a picture, with polygons; pictures are named by relative paths."""
    for item in items:
        height, width = item.label.shape
        shapes = [
            {
                "label": names[key],
                "points": points.tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for key, points in item.outlined(epsilon)
        ]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(item.picture.resolve(), out.resolve()),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(out / f"{item.image_id}.json", content)


def read_labelme(folder: Path, dataset: Dataset) -> Labels:
    """Yield the labels of labelme's JSON files; later shapes cover earlier ones."""
    for path in files_of(folder, ".json"):
        content = read_json(path, REMEDY, LABELME)
        with decoding(path, REMEDY):
            sides = content.get("imageHeight"), content.get("imageWidth")
            image_id, size = picture_of(dataset, content["imagePath"], *sides)
            label = np.zeros(size, np.uint8)
            for shape in content["shapes"]:
                _draw_shape(label, shape, id_of(shape["label"], dataset.class_names))
        yield image_id, label


def _draw_shape(label: np.ndarray, shape: Mapping[str, Any], key: int) -> None:
    kind, points = shape.get("shape_type") or OUTLINES[0], np.array(shape["points"], float)
    if kind not in (*OUTLINES, *POINTS):
        raise InputError(f"A {kind} of {shape['label']!r} is no area. Draw its outline instead.")
    if len(points) != POINTS.get(kind, max(3, len(points))):
        raise Damaged(f"a {kind} has {len(points)} points")
    if kind in OUTLINES:
        return fill(label, points, key)
    first, last = points
    if kind == "circle":  # around the first point, through the other
        angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], 1)
        return fill(label, first + np.linalg.norm(last - first) * circle, key)
    if kind == "rectangle":
        return fill(label, np.array([first, (last[0], first[1]), last, (first[0], last[1])]), key)
    (left, top), (right, bottom) = points.astype(int)
    image = Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"])
    part = label[max(0, top) : bottom + 1, max(0, left) : right + 1]
    if image.size != part.shape[::-1]:
        raise Damaged(f"a mask is {image.size}, not {part.shape[::-1]}")
    part[np.asarray(image) > 0] = key


def write_masks(
    items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float, coloured: bool
) -> None:
    """Write the devkit's layout: PNGs, a list, and the colours of the classes in labelmap.txt.

    The PNGs have palettes, and 255 for unsure pixels; or they are ``coloured``, for CVAT's
    "Segmentation mask 1.1".
    """
    ids, palette = [], voc_palette()
    for item in items:
        for kind, label in (("Class", item.label), ("Object", instances_of(item))):
            path = out / f"Segmentation{kind}/{item.image_id}.png"
            if coloured:
                save_rgb(path, palette[np.where(label == UNSURE, 0, label)])
            else:
                save_label(path, label)
        ids.append(item.image_id)
    write_lines(out / f"ImageSets/Segmentation/{LISTED}.txt", ids)
    classes = dict(enumerate(names))
    if not coloured:
        classes[UNSURE] = "ignored"
    rows = ["# label:color_rgb:parts:actions"]
    for key, name in classes.items():
        colour = ",".join(map(str, palette[key].tolist()))
        rows.append(f"{name}:{colour}::")
    write_lines(out / "labelmap.txt", rows)


def read_masks(folder: Path, dataset: Dataset) -> Labels:
    """Yield the labels of coloured masks with labelmap.txt, or of what the dataset reads as masks.

    They lie in SegmentationClass, or in the folder itself. A picture that the lists name, and that
    has none, is background.
    """
    legend, found = next(folder.rglob("labelmap.txt"), None), set()
    read = Colours(legend, dataset.class_names).read if legend else dataset.read_mask
    for path in files_of(next(folder.rglob("SegmentationClass"), folder), ".png"):
        image_id, size = picture_of(dataset, path.name)
        label = read(path)
        check_label(path, label, dataset.num_classes, size[::-1])
        found.add(image_id)
        yield image_id, label
    for path in folder.rglob("ImageSets/Segmentation/*.txt"):
        for name in read_lines(path):
            image_id, size = picture_of(dataset, name)
            if image_id not in found:
                found.add(image_id)
                yield image_id, np.zeros(size, np.uint8)


def instances_of(item: Labelled) -> np.ndarray:
    """Return uint8 (H, W): the parts of every class, numbered over the picture from 1.

    Parts beyond 254, for which the format has no number, are 0, and a warning counts them.
    """
    instances, count = np.zeros(item.label.shape, np.int64), 0
    for _, region in item.regions():
        number, parts = cv2.connectedComponents(region.astype(np.uint8))
        instances[region] = parts[region] + count
        count += number - 1
    if count >= UNSURE:
        log.warning("%s has %d parts, 254 fit SegmentationObject", item.image_id, count)
        instances[instances >= UNSURE] = 0
    return instances.astype(np.uint8)


def write_areas(items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float) -> None:
    """Write a table of areas, see :func:`area_rows`."""
    names = {**dict(enumerate(names)), UNSURE: "unsure"}
    rows = [AREAS]
    for item in items:
        keys, counts = np.unique(item.label, return_counts=True)
        pixels = {names[key]: count for key, count in zip(keys.tolist(), counts, strict=True)}
        rows += area_rows(item.image_id, {names[0]: 0, **pixels})
    write_table(out, rows, write_atomic)


def area_rows(image_id: str, pixels: Mapping[str, int]) -> list[tuple[str, str, int, float]]:
    """Return rows as AREAS heads them: picture, class, its pixels, and their share in [0, 1].

    ``pixels`` has the numbers by the name of the class, which together are all of the picture.
    """
    total = sum(pixels.values())
    return [(image_id, name, count, round(count / total, 6)) for name, count in pixels.items()]


class Format(NamedTuple):
    """How labels are written, and how they are read again, if they can be."""

    write: Callable[[Iterable[Labelled], Sequence[str], Path, float], None]
    read: Callable[[Path, Dataset], Labels] | None


FORMATS = {
    "coco": Format(write_coco, read_coco),
    "yolo": Format(write_yolo, read_yolo),
    "labelme": Format(write_labelme, read_labelme),
    "cvat": Format(partial(write_masks, coloured=True), read_masks),
    "voc": Format(partial(write_masks, coloured=False), read_masks),
    "areas": Format(write_areas, None),
}
