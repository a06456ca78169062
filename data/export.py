"""Labels in the formats of annotation tools and trainers.

Every format is a function that writes the labels of a list. No format but VOC's knows pixels that
are unsure; they become background.

Outlines are those of OpenCV, through the centres of a region's border pixels. COCO's polygons are
read in coordinates in which a pixel is a square, so there they run a quarter of a pixel inside its
border. A region with holes is one outline, joined to that of each hole by a line that is run
through twice.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from tool.errors import InputError
from tool.pictures import UNSURE, save_label, save_rgb, voc_palette
from tool.writer import write_json, write_lines

LISTED = "default"  # name of the list in VOC's and CVAT's layout
# What a class name may not have: control characters, ends of lines, and halves of characters; in
# labelmap.txt also what separates fields, begins a comment, or is cut off.
UNWRITABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
UNFIT_FOR_LABELMAP = rf"{UNWRITABLE}|:|^#|^\s|\s$"

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


# ---------------------------------------------------------------------------- formats


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


FORMATS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": partial(write_masks, coloured=True),
    "voc": partial(write_masks, coloured=False),
}
