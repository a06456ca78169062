"""Pictures of a session: the best, the worst and some others, beside what every step made."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.base import Dataset
from log.figures import SEGMENTATION, Run
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask
from tool.reader import Damaged, decoding, read_table
from tool.writer import FORMULAS

EACH = 8  # best, worst, and at random
EACH_SEGMENTED = 3  # likewise, of pictures that only step 3 has seen
WIDTH = 200  # pixels of a drawing
QUALITY = 80
JUDGED = ("pseudo_label", "crf_label", "cam")  # whose IoU of a picture sorts the gallery
HARMLESS = tuple(f"'{letter}" for letter in FORMULAS)  # how ids of spreadsheets' formulas begin
REMEDY = "Run its evaluation again."
SEGMENTED = {model: f"DeepLab {model[7:9]}" for model in SEGMENTATION}  # and the title of a drawing


class Shown(NamedTuple):
    """A picture of the gallery."""

    image_id: str
    why: str  # best, worst, random, and of what
    miou: float
    drawings: list[tuple[str, str]]  # title, data URL of a JPEG


def gallery(run: Run, dataset: Dataset) -> Iterator[Shown]:
    """Yield pictures of labels or maps, and further ones of the segmentation, by groups of IoU.

    What cannot be read is noted in the run.
    """
    mious = next(filter(None, (_mious(run, name) for name in JUDGED)), {})
    yield from _groups(run, dataset, mious, EACH, "")
    for model, title in SEGMENTED.items():
        new = {i: miou for i, miou in _mious(run, f"seg_{model}").items() if i not in mious}
        yield from _groups(run, dataset, new, EACH_SEGMENTED, f" of {title}")


def _mious(run: Run, name: str) -> dict[str, float]:
    path = run.path / f"eval_{name}.csv"
    return (run.part(read_mious, path) if path.exists() else None) or {}


def read_mious(path: Path) -> dict[str, float]:
    """Return id -> mIoU of the picture from the table of an evaluation, where it has one.

    Raises:
        InputError: it is damaged, or an id is a path.
    """
    mious = {}
    rows = read_table(path, REMEDY, ("id", "miou"))
    with decoding(path, REMEDY):
        for row in rows:
            name = row["id"]
            if name.startswith(HARMLESS):
                name = name[1:]
            if not name or name.startswith(".") or set("/\\\0") & set(name):
                raise Damaged(f"{name!r} is no id")
            if row["miou"]:
                mious[name] = float(row["miou"])
    return {name: miou for name, miou in mious.items() if 0 <= miou <= 1}


def _groups(
    run: Run, dataset: Dataset, mious: dict[str, float], each: int, of: str
) -> Iterator[Shown]:
    order = sorted(mious, key=mious.get, reverse=True)
    rest = order[each:-each] if len(order) > 2 * each else []
    chosen = np.random.default_rng(0).permutation(len(rest))[:each]
    groups = {
        "best": order[:each],
        "worst": order[max(each, len(order) - each) :],
        "random": [rest[i] for i in sorted(chosen)],
    }
    for why, ids in groups.items():
        for image_id in ids:
            drawn = run.part(lambda name: list(drawings(run.path, dataset, name)), image_id)
            if drawn:
                yield Shown(image_id, why + of, mious[image_id], drawn)


def drawings(session: Path, dataset: Dataset, image_id: str) -> Iterator[tuple[str, str]]:
    """Yield title and data URL of everything that there is of a picture.

    Raises:
        InputError: the picture itself cannot be read.
    """
    picture = np.array(dataset.read(image_id))
    yield "picture", data_url(picture)
    masks = {"truth": (dataset.mask_path(image_id), dataset.read_mask)}
    folders = {"confident": "ir_label", "label": "pseudo_label"}
    folders |= {title: f"seg_{model}" for model, title in SEGMENTED.items()}
    for title, folder in folders.items():
        masks[title] = (session / folder / f"{image_id}.png", read_mask)
    drawn = {"truth": label_drawing(picture, *masks.pop("truth"))}
    drawn |= map_drawings(picture, session / "npy", image_id)
    drawn |= {title: label_drawing(picture, *mask) for title, mask in masks.items()}
    yield from ((title, data_url(one)) for title, one in drawn.items() if one is not None)


def label_drawing(
    picture: np.ndarray, path: Path, read: Callable[[Path], np.ndarray]
) -> np.ndarray | None:
    """Return a label over its picture; None where there is none that fits."""
    try:
        label = read(path)
    except InputError:
        return None
    return label_overlay(picture, label) if label.shape == picture.shape[:2] else None


def map_drawings(picture: np.ndarray, npy: Path, image_id: str) -> dict[str, np.ndarray]:
    """Return plain CAM and IS-CAM over their picture, those that are there and fit.

    Of a picture without a class, nothing is warm.
    """
    try:
        maps = read_maps(npy, image_id)
    except InputError:
        return {}
    foreground = {"IS-CAM": maps["IS_CAM"][1:]}
    if "CAM" in maps:
        foreground = {"CAM": maps["CAM"], **foreground}
    return {
        title: overlay(picture, heat(one.max(0, initial=0)))
        for title, one in foreground.items()
        if one.shape[1:] == picture.shape[:2]
    }


def data_url(drawing: np.ndarray) -> str:
    """Return a drawing, uint8 (H, W, 3), as a JPEG of WIDTH pixels within a URL."""
    image = Image.fromarray(drawing)
    image.thumbnail((WIDTH, 4 * WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
