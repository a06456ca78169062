"""Pictures of a session: the best, the worst and some others, beside what every step made."""

import base64
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from data.base import Dataset
from data.doctor.dataset import spread
from log.figures import PLAIN, Run
from tool.errors import InputError
from tool.grid import grid
from tool.maps import read_maps
from tool.pictures import label_overlay, overlay, read_mask
from tool.reader import Damaged, decoding, read_table
from tool.writer import FORMULAS

WIDTH, INCHES = 200, 1.76  # of a drawing: pixels, and where it is printed
ROWS = 4  # pictures of the figure
QUALITY = 80
SEGMENTED = {"seg_deeplabv2_resnet101": "DeepLab v2", "seg_deeplabv1_resnet38": "DeepLab v1"}
# Evaluations whose IoU sort the gallery, and how many pictures each are the best, the worst and
# others, of those that no earlier one has judged.
GROUPS = {"pseudo_label": 8, "crf_label": 8, "cam": 8, **dict.fromkeys(SEGMENTED, 3)}
LABELS = {"ir_label": "confident", "pseudo_label": "label", **SEGMENTED}  # folder, title
HARMLESS = tuple(f"'{letter}" for letter in FORMULAS)  # how ids of spreadsheets' formulas begin
REMEDY = "Run its evaluation again."


class Shown(NamedTuple):
    """A picture of the gallery."""

    image_id: str
    why: str
    miou: float
    drawings: dict[str, np.ndarray]  # uint8 (h, w, 3) by their titles, WIDTH wide at most


def gallery(run: Run, dataset: Dataset) -> Iterator[Shown]:
    """Yield the pictures to show; what cannot be read is noted in the run."""
    seen: dict[str, float] = {}
    for name, each in GROUPS.items():
        mious = run.part(read_mious, run.path / f"eval_{name}.csv") or {}
        order = sorted(mious.keys() - seen, key=lambda image_id: (-mious[image_id], image_id))
        seen |= mious
        groups = {"best": order[:each], "worst": order[each:][-each:]}
        groups["other"] = spread(order[each:-each], each)
        for why, ids in groups.items():
            for image_id in ids:
                try:
                    drawn = drawings(run.path, dataset, image_id)
                    yield Shown(image_id, f"{why} of {name}", mious[image_id], drawn)
                except InputError as error:
                    run.unread.append(str(error))


def read_mious(path: Path) -> dict[str, float]:
    """Return id -> mIoU of the picture from the table of an evaluation, where it has one.

    Raises:
        InputError: it is damaged, or an id is a path.
    """
    mious = {}
    with decoding(path, REMEDY):
        for row in read_table(path, REMEDY, ("id", "miou")):
            name = row["id"][1:] if row["id"].startswith(HARMLESS) else row["id"]
            if not name or Path(name).name != name:
                raise Damaged(f"{name!r} is no id")
            if row["miou"] and 0 <= float(row["miou"]) <= 1:
                mious[name] = float(row["miou"])
    return mious


def figure(pictures: list[Shown]) -> Figure:
    """Return a figure of some pictures, spread evenly over those that are drawn as the first is."""
    titles = list(pictures[0].drawings)
    shown = spread((one for one in pictures if list(one.drawings) == titles), ROWS)
    drawn = [drawing for one in shown for drawing in one.drawings.values()]
    return grid(drawn, titles, len(titles), INCHES, [one.image_id for one in shown])


def drawings(session: Path, dataset: Dataset, image_id: str) -> dict[str, np.ndarray]:
    """Return what there is of a picture, and fits, by its title.

    Raises:
        InputError: the picture itself cannot be read.
    """
    picture = np.array(dataset.read(image_id))
    found, plain = {"picture": picture}, session / PLAIN / "npy"
    layers = {
        "truth": (label_overlay, dataset.read_mask, dataset.mask_path(image_id)),
        "CAM": (overlay, warmth, plain if plain.is_dir() else session / "npy", image_id, "CAM", 0),
        "IS-CAM": (overlay, warmth, session / "npy", image_id, "IS_CAM", 1),
    }
    for folder, title in LABELS.items():
        layers[title] = (label_overlay, read_mask, session / folder / f"{image_id}.png")
    for title, (draw, read, *where) in layers.items():
        with suppress(InputError):
            layer = read(*where)
            if layer.shape[:2] == picture.shape[:2]:
                found[title] = draw(picture, layer)
    return {title: thumbnail(drawing) for title, drawing in found.items()}


def warmth(folder: Path, image_id: str, name: str, first: int) -> np.ndarray:
    """Return the maximum of a picture's CAM or IS_CAM over its classes, (H, W) in [0, 1].

    ``first`` is the plane of the first class, after that of background if there is one.

    Raises:
        InputError: its maps cannot be read, or have no such one.
    """
    maps = read_maps(folder, image_id)
    if name not in maps:
        raise InputError(f"The maps of {image_id} in {folder} have no {name}.")
    return maps[name][first:].max(0, initial=0)


def thumbnail(drawing: np.ndarray) -> np.ndarray:
    """Return a drawing, uint8 (H, W, 3), reduced to WIDTH."""
    image = Image.fromarray(drawing)
    image.thumbnail((WIDTH, 4 * WIDTH))
    return np.asarray(image)


def data_url(drawing: np.ndarray) -> str:
    """Return a drawing, uint8 (H, W, 3), as a JPEG within a URL."""
    buffer = io.BytesIO()
    Image.fromarray(drawing).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
