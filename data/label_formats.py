"""Labels in the formats of annotation tools and trainers, written for them and read from them.

Every format has a function that writes the labels of a list, and one that yields what people made
of them: names of pictures and labels. No format but VOC's knows pixels that are unsure; they become
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from data.base import Dataset
from data.coco.annotations import SIDE, pictures_of, read_linked
from data.coco.masks import draw_mask
from data.folder.tables import Colours, id_of
from data.lists import files_in, picture_path, plain
from tool.errors import InputError
from tool.pictures import UNSURE, save_label, save_rgb, voc_palette
from tool.reader import Damaged, decoding, read_json, read_lines, read_text
from tool.writer import link, write_atomic, write_json, write_lines, write_table

Labels = Iterator[tuple[str, np.ndarray]]  # names of pictures, and uint8 (H, W)

# What a class name may not have: control characters, ends of lines, and halves of characters; in
# labelmap.txt also what separates fields, begins a comment, or is cut off.
UNWRITABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
UNFIT_FOR_LABELMAP = rf"{UNWRITABLE}|:|^#|^\s|\s$"
REMEDY = "Write it again with the annotation tool."
LABELME = {
    "imagePath": str,
    "imageHeight": SIDE,
    "imageWidth": SIDE,
    "shapes": [{"label": str, "points": [(float, float)], "shape_type?": str, "mask?": str}],
}
# Kinds of labelme's shapes that are areas, and how many points one has at least.
FEWEST = {"polygon": 3, "oriented_rectangle": 4, "rectangle": 2, "circle": 2, "mask": 2}
YAML_ROW = re.compile(r"\s*(?:-|(\d+):)\s+(.*?)\s*")  # a name of a list of YAML, or of a mapping

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """A picture and its label."""

    image_id: str
    picture: Path
    label: np.ndarray  # uint8 (H, W), 255 unsure

    def regions(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (class id, bool (H, W)) of every class that is there."""
        for key in np.setdiff1d(self.label, (0, UNSURE)).tolist():
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
        region: bool (H, W), not empty.
        epsilon: largest distance in pixels from the exact outline, by Douglas and Peucker.
        enlarged: 1 for outlines through the centres of border pixels, whose coordinates are whole
            numbers; 2 for such that run a quarter of a pixel inside the border, in coordinates in
            which pixel i reaches from i to i + 1.
    """
    pixels = region.astype(np.uint8).repeat(enlarged, 0).repeat(enlarged, 1)
    contours, tree = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
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
    distances = np.linalg.norm(outline[:, None] - hole, axis=2)
    here, there = np.unravel_index(distances.argmin(), distances.shape)
    around = np.roll(hole, -there, axis=0)
    return np.concatenate([outline[: here + 1], around, around[:1], outline[here:]])


# ---------------------------------------------------------------------------- formats


def background_of(dataset: Dataset, name: str) -> np.ndarray:
    """Return zeros, uint8 (H, W), for the picture that annotations call ``name``.

    Raises:
        InputError: there is no such picture.
    """
    picture = dataset.read(dataset.id_of(picture_path(name)))
    return np.zeros(picture.size[::-1], np.uint8)


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
        name = item.picture.name
        if plain(item.picture.stem) != item.image_id:  # other pictures may have the same name
            name = f"{item.picture.parent.name}/{name}"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for key, region in item.regions():
            rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
            shape = {**rle, "counts": rle["counts"].decode()}
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
    content, class_id_of = read_linked(path, REMEDY), partial(id_of, classes=dataset.class_names)
    with decoding(path, REMEDY):
        pictures = pictures_of(content, class_id_of)
    codes = [region.code for picture in pictures for region in picture.regions]
    if codes and not any(codes):
        raise InputError(f"{path} has boxes alone. Labels need outlines or run lengths.")
    if None in codes:
        log.warning("%s: %d boxes without an outline are left out", path, codes.count(None))
    for picture in pictures:
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
        link(item.picture, out / f"images/{item.image_id}{item.picture.suffix}")
    classes = json.dumps(names[1:], ensure_ascii=False)  # a list of JSON is one of YAML too
    header = ["path: .", "train: images", "val: images", f"names: {classes}"]
    write_lines(out / "data.yaml", header)


def read_yolo(folder: Path, dataset: Dataset) -> Labels:
    """Yield the labels of the outlines in folders called labels; later lines cover earlier ones."""
    names = _names_in(folder / "data.yaml")
    for path in files_of(folder, ".txt"):
        if "labels" not in path.relative_to(folder).parts:
            continue  # it is a list
        label = background_of(dataset, path.stem)
        with decoding(path, REMEDY):
            for line in read_lines(path):
                number, *shares = line.split()
                name = names.get(int(number))
                if name is None:
                    raise Damaged(f"{line!r:.60} is of no class of data.yaml")
                points = np.array(shares, float).reshape(-1, 2) * label.shape[::-1] - 0.5
                draw(label, {"label": name, "points": points}, dataset)
        yield path.stem, label


def _names_in(path: Path) -> dict[int, str]:
    """Return the names of classes by their numbers, from a list of YAML in one line or many."""
    lines = read_text(path).partition("\nnames:")[2].strip().splitlines()
    if lines and lines[0].startswith("["):
        with decoding(path, REMEDY):
            return dict(enumerate(ast.literal_eval(lines[0])))
    rows = takewhile(bool, map(YAML_ROW.fullmatch, lines))
    return {int(row[1] or place): row[2].strip("'\"") for place, row in enumerate(rows)}


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
        label = np.zeros((content["imageHeight"], content["imageWidth"]), np.uint8)
        with decoding(path, REMEDY):
            for shape in content["shapes"]:
                draw(label, shape, dataset)
        yield content["imagePath"], label


def draw(label: np.ndarray, shape: Mapping[str, Any], dataset: Dataset) -> None:
    """Give the pixels on and within a shape of labelme's the class that it names.

    Args:
        label: uint8 (H, W), which is changed.
        shape: of the schema of LABELME.
        dataset: which has the class.

    Raises:
        InputError: the shape is no area, or of no class.
        Damaged: a point lies far outside the picture.
    """
    kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], float)
    if len(points) < FEWEST.get(kind, np.inf):
        raise InputError(f"A {kind} of {shape['label']!r} is no area. Draw its outline instead.")
    if not np.abs(points).max() <= 2 * max(label.shape):
        raise Damaged("a point lies far outside the picture")
    key, corners = id_of(shape["label"], dataset.class_names), np.rint(points).astype(np.int32)
    first, last = corners[0].tolist(), corners[-1].tolist()
    if kind == "mask":
        (left, top), (right, bottom) = first, last
        image = Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"])
        label[top : bottom + 1, left : right + 1][np.asarray(image) > 0] = key
    elif kind == "rectangle":
        cv2.rectangle(label, first, last, key, cv2.FILLED)
    elif kind == "circle":  # around the first point, through the last
        radius = round(np.linalg.norm(points[-1] - points[0]))
        cv2.circle(label, first, radius, key, cv2.FILLED)
    else:
        cv2.fillPoly(label, [corners], key)


def write_masks(
    items: Iterable[Labelled],
    names: Sequence[str],
    out: Path,
    epsilon: float,
    coloured: bool = False,
) -> None:
    """Write the devkit's layout: PNGs, a list, and the colours of the classes in labelmap.txt.

    The PNGs have palettes, and 255 for unsure pixels; or they are ``coloured``, for CVAT's
    "Segmentation mask 1.1".
    """
    ids, palette, classes = [], voc_palette(), dict(enumerate(names))
    for item in items:
        for kind, label in (("Class", item.label), ("Object", instances_of(item))):
            path = out / f"Segmentation{kind}/{item.image_id}.png"
            if coloured:
                save_rgb(path, palette[np.where(label == UNSURE, 0, label)])
            else:
                save_label(path, label)
        ids.append(item.image_id)
    write_lines(out / "ImageSets/Segmentation/default.txt", ids)
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
    legend = next(folder.rglob("labelmap.txt"), None)
    read = Colours(legend, dataset.class_names).read if legend else dataset.read_mask
    masks = files_of(next(folder.rglob("SegmentationClass"), folder), ".png")
    for path in masks:
        yield path.stem, read(path)
    lists = folder.rglob("ImageSets/Segmentation/*.txt")
    listed = {plain(name) for path in lists for name in read_lines(path)}
    for name in sorted(listed.difference(plain(path.stem) for path in masks)):
        yield name, background_of(dataset, name)


def instances_of(item: Labelled) -> np.ndarray:
    """Return uint8 (H, W): the parts of every class, numbered over the picture from 1.

    Parts beyond 254, for which the format has no number, are 0, and a warning counts them.
    """
    instances, count = np.zeros(item.label.shape, np.int64), 0
    for _, region in item.regions():
        _, parts = cv2.connectedComponents(region.astype(np.uint8))
        instances[region] = parts[region] + count
        count = instances.max()
    if count >= UNSURE:
        log.warning("%s has %d parts, 254 fit SegmentationObject", item.image_id, count)
    return np.where(instances < UNSURE, instances, 0).astype(np.uint8)


def write_areas(items: Iterable[Labelled], names: Sequence[str], out: Path, epsilon: float) -> None:
    """Write a table of areas, see :func:`write_area_table`."""
    named = dict(enumerate(names)) | {UNSURE: "unsure"}
    areas = []
    for item in items:
        counts = np.bincount(item.label.ravel(), minlength=UNSURE + 1).tolist()
        pixels = {name: counts[key] for key, name in named.items() if counts[key] or key == 0}
        areas.append((item.image_id, pixels))
    write_area_table(out, areas)


def write_area_table(out: Path, areas: Iterable[tuple[str, Mapping[str, int]]]) -> None:
    """Write a table of the pixels of every class in every picture, and of their share in [0, 1].

    ``areas`` has pictures, and their pixels by the name of the class, which together are all of the
    picture.
    """
    rows = [("picture", "class", "pixels", "share")]
    for image_id, pixels in areas:
        total = sum(pixels.values())
        for name, count in pixels.items():
            rows.append((image_id, name, count, round(count / total, 6)))
    write_table(out, rows, write_atomic)


FORMATS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": partial(write_masks, coloured=True),
    "voc": write_masks,
    "areas": write_areas,
}
READERS = {
    "coco": read_coco,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_masks,
    "voc": read_masks,
}
