"""Labels in the formats of annotation tools and trainers, and back.

Every format is a pair of functions: one writes the labels of a list, the other reads what was
written and returns the label of every picture, by the rules of whoever reads that format. No format
but VOC's knows pixels that are unsure; they become background.

Outlines are those of OpenCV, through the centres of a region's border pixels. COCO's polygons are
read in coordinates in which a pixel is a square, so there they run a quarter of a pixel inside its
border. A region with holes is one outline, joined to that of each hole by a line that is run
through twice.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as coco_mask

from tool.files import write_atomic, write_json
from tool.pictures import UNSURE, read_mask, save_label, save_rgb, voc_palette

LISTED = "default"  # name of the list in VOC's and CVAT's layout


class Labelled(NamedTuple):
    """A picture and its label."""

    image_id: str
    picture: Path
    label: np.ndarray  # uint8 (H, W), 255 unsure

    def regions(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (class id, bool (H, W)) of every class that is there."""
        for key in np.unique(self.label[(self.label > 0) & (self.label != UNSURE)]).tolist():
            yield key, self.label == key


Write = Callable[[Iterable[Labelled], list[str], Path, Any], None]


# ---------------------------------------------------------------------------- outlines


def outlines(region: np.ndarray, epsilon: float, enlarged: int = 1) -> list[np.ndarray]:
    """Return one closed outline for each part of a region, float (N, 2), (x, y) in pixels.

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
    fewer = cv2.approxPolyDP(contour, epsilon, closed=True) if epsilon else contour
    return (fewer if len(fewer) > 2 else contour)[:, 0].astype(np.float64)  # (N, 2)


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return an outline that goes to the hole, around it, and back, where they are nearest."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(2)
    here, there = np.unravel_index(distances.argmin(), distances.shape)
    around = np.roll(hole, -there, axis=0)
    return np.concatenate([outline[: here + 1], around, around[:1], outline[here:]])


# ---------------------------------------------------------------------------- COCO


def write_coco(items: Iterable[Labelled], names: list[str], out: Path, args) -> None:
    """Write COCO's JSON: an annotation for each class of a picture, as RLE or polygons."""
    content: dict[str, Any] = {
        "info": {"description": "labels of image-level supervision"},
        "categories": [{"id": key, "name": name} for key, name in enumerate(names[1:], 1)],
        "images": [],
        "annotations": [],
    }
    for number, item in enumerate(items, 1):
        height, width = item.label.shape
        about = {"id": number, "file_name": item.picture.name, "height": height, "width": width}
        content["images"].append(about)
        for key, region in item.regions():
            rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
            shape = {"size": rle["size"], "counts": rle["counts"].decode()}
            if args.polygons:
                parts = outlines(region, args.epsilon, enlarged=2)
                shape = [_polygon(points).round(2).ravel().tolist() for points in parts]
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": key,
                "segmentation": shape,
                "area": float(coco_mask.area(rle)),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
            content["annotations"].append(annotation)
    text = json.dumps(content, ensure_ascii=False).encode()
    write_atomic(out, lambda file: file.write(text))


def _polygon(points: np.ndarray) -> np.ndarray:
    """Return at least three points: one or two, which are a line of pixels, stand there again."""
    return points if len(points) > 2 else np.repeat(points, 4 // len(points), 0)


def read_coco(out: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return file name without ending -> label, by pycocotools."""
    content = json.loads(out.read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    labels = {i: np.zeros((im["height"], im["width"]), np.uint8) for i, im in images.items()}
    for annotation in content["annotations"]:
        label, shape = labels[annotation["image_id"]], annotation["segmentation"]
        if isinstance(shape, list):
            shape = coco_mask.merge(coco_mask.frPyObjects(shape, *label.shape))
        label[coco_mask.decode(shape).astype(bool)] = annotation["category_id"]
    return {Path(images[number]["file_name"]).stem: label for number, label in labels.items()}


# ---------------------------------------------------------------------------- YOLO


def write_yolo(items: Iterable[Labelled], names: list[str], out: Path, args) -> None:
    """Write Ultralytics' segmentation layout: data.yaml, links to pictures, a text a picture.

    A line is a class id from 0 and an outline, x and y as shares of width and height.
    """
    classes = "".join(f"  {n}: {json.dumps(name)}\n" for n, name in enumerate(names[1:]))
    yaml = f"path: .\ntrain: images\nval: images\nnames:\n{classes}".encode()
    for item in items:
        height, width = item.label.shape
        lines = []
        for key, region in item.regions():
            for points in outlines(region, args.epsilon):
                shares = (_polygon(points) + 0.5) / (width, height)
                numbers = " ".join(f"{share:.6f}" for share in shares.ravel())
                lines.append(f"{key - 1} {numbers}\n")
        text = "".join(lines).encode()
        write_atomic(out / f"labels/{item.image_id}.txt", lambda file, text=text: file.write(text))
        _link(item.picture, out / f"images/{item.image_id}{item.picture.suffix}")
    write_atomic(out / "data.yaml", lambda file: file.write(yaml))


def _link(picture: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(picture.resolve())


def read_yolo(out: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return id -> label, drawn by OpenCV as Ultralytics does."""
    labels = {}
    for path in sorted((out / "labels").iterdir()):
        picture = next((out / "images").glob(f"{_escaped(path.stem)}.*"))
        with Image.open(picture) as image:
            width, height = ImageOps.exif_transpose(image).size
        label = labels[path.stem] = np.zeros((height, width), np.uint8)
        for line in path.read_text().splitlines():
            key, *numbers = line.split()
            points = np.array(numbers, float).reshape(-1, 2) * (width, height)
            cv2.fillPoly(label, [points.astype(np.int32)], int(key) + 1)
    return labels


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


# ---------------------------------------------------------------------------- labelme


def write_labelme(items: Iterable[Labelled], names: list[str], out: Path, args) -> None:
    """Write labelme's JSON, one a picture, with polygons; pictures are named by relative paths."""
    for item in items:
        height, width = item.label.shape
        shapes = [
            {
                "label": names[key],
                "points": _polygon(points).tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for key, region in item.regions()
            for points in outlines(region, args.epsilon)
        ]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(item.picture.resolve(), args.final.resolve()),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(out / f"{item.image_id}.json", content)


def read_labelme(out: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return id -> label, drawn by Pillow as labelme does."""
    labels = {}
    for path in sorted(out.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        image = Image.new("L", (content["imageWidth"], content["imageHeight"]))
        pen = ImageDraw.Draw(image)
        for shape in content["shapes"]:
            key, points = names.index(shape["label"]), [tuple(p) for p in shape["points"]]
            pen.polygon(points, fill=key, outline=key)
        labels[path.stem] = np.array(image)
    return labels


# ---------------------------------------------------------------------------- masks


def write_voc(items: Iterable[Labelled], names: list[str], out: Path, args) -> None:
    """Write the devkit's layout: palette PNGs, 255 unsure, a list, labelmap.txt."""
    unsure = "ignored:{},{},{}::".format(*voc_palette()[UNSURE])
    _write_masks(items, names, out, save_label, unsure)


def write_cvat(items: Iterable[Labelled], names: list[str], out: Path, args) -> None:
    """Write CVAT's "Segmentation mask 1.1": coloured PNGs, a list, labelmap.txt."""

    def save(path: Path, label: np.ndarray) -> None:
        save_rgb(path, voc_palette()[np.where(label == UNSURE, 0, label)])

    _write_masks(items, names, out, save)


def _write_masks(items, names: list[str], out: Path, save: Callable, *more: str) -> None:
    ids = []
    for item in items:
        save(out / f"SegmentationClass/{item.image_id}.png", item.label)
        # Parts of a class are its instances, numbered over the picture.
        instances = np.zeros(item.label.shape, np.uint8)
        for _, region in item.regions():
            number, parts = cv2.connectedComponents(region.astype(np.uint8))
            free = min(number - 1, UNSURE - 1 - int(instances.max()))
            shown = (parts > 0) & (parts <= free)
            instances[shown] = parts[shown] + instances.max()
        save(out / f"SegmentationObject/{item.image_id}.png", instances)
        ids.append(item.image_id)
    colours = voc_palette()[: len(names)].tolist()
    rows = [f"{n}:{','.join(map(str, c))}::" for n, c in zip(names, colours, strict=True)]
    lists = {
        f"ImageSets/Segmentation/{LISTED}.txt": ids,
        "labelmap.txt": ["# label:color_rgb:parts:actions", *rows, *more],
    }
    for name, lines in lists.items():
        text = "".join(f"{line}\n" for line in lines).encode()
        write_atomic(out / name, lambda file, text=text: file.write(text))


def read_masks(out: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return id -> label of either layout, by the colours of labelmap.txt."""
    rows = (out / "labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]
    keys = {row.rsplit(":", 3)[1]: number for number, row in enumerate(rows)}
    labels = {}
    for image_id in (out / f"ImageSets/Segmentation/{LISTED}.txt").read_text().splitlines():
        path = out / f"SegmentationClass/{image_id}.png"
        with Image.open(path) as image:
            mode, rgb = image.mode, np.array(image.convert("RGB"))
        if mode == "P":
            labels[image_id] = read_mask(path)
            continue
        label = labels[image_id] = np.zeros(rgb.shape[:2], np.uint8)
        for colour, key in keys.items():
            label[(rgb == np.array(colour.split(","), int)).all(2)] = key
    return labels


class Format(NamedTuple):
    """How labels are written and read, and whether 255 stays."""

    write: Write
    read: Callable[[Path, list[str]], dict[str, np.ndarray]]
    keeps_unsure: bool = False


FORMATS = {
    "coco": Format(write_coco, read_coco),
    "yolo": Format(write_yolo, read_yolo),
    "labelme": Format(write_labelme, read_labelme),
    "cvat": Format(write_cvat, read_masks),
    "voc": Format(write_voc, read_masks, keeps_unsure=True),
}
