"""Pictures of a session: the best, the worst and some others, beside what every step made."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.base import Dataset
from data.doctor.dataset import spread
from log.figures import Run
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask
from tool.reader import Damaged, decoding, read_table
from tool.writer import FORMULAS

WIDTH = 200  # pixels of a drawing
QUALITY = 80
SEGMENTED = {"seg_deeplabv2_resnet101": "DeepLab v2", "seg_deeplabv1_resnet38": "DeepLab v1"}
# Evaluations whose IoU sort the gallery, and how many pictures each are the best, the worst and
# others, of those that no earlier one has judged.
GROUPS = {"pseudo_label": 8, "crf_label": 8, "cam": 8, **dict.fromkeys(SEGMENTED, 3)}
LABELS = {"ir_label": "confident", "pseudo_label": "label", **SEGMENTED}  # folder, title
MAPS = {"CAM": "CAM", "IS_CAM": "IS-CAM"}  # array, title
HARMLESS = tuple(f"'{letter}" for letter in FORMULAS)  # how ids of spreadsheets' formulas begin
REMEDY = "Run its evaluation again."

Drawing = tuple[str, str]  # title, data URL of a JPEG


def gallery(run: Run, dataset: Dataset) -> Iterator[tuple[str, str, float, list[Drawing]]]:
    """Yield id, why it is shown, mIoU and drawings of pictures.

    What cannot be read is noted in the run.
    """
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
                    drawn = list(drawings(run.path, dataset, image_id))
                    yield image_id, f"{why} of {name}", mious[image_id], drawn
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


def drawings(session: Path, dataset: Dataset, image_id: str) -> Iterator[Drawing]:
    """Yield what there is of a picture, and fits.

    Raises:
        InputError: the picture itself cannot be read.
    """
    picture = np.array(dataset.read(image_id))
    yield "picture", data_url(picture)
    layers = {"truth": (label_overlay, dataset.read_mask, dataset.mask_path(image_id))}
    for name, title in MAPS.items():
        layers[title] = (overlay, warmth, session / "npy", image_id, name)
    for folder, title in LABELS.items():
        layers[title] = (label_overlay, read_mask, session / folder / f"{image_id}.png")
    for title, (draw, read, *where) in layers.items():
        try:
            layer = read(*where)
        except InputError:
            continue
        if layer.shape[:2] == picture.shape[:2]:
            yield title, data_url(draw(picture, layer))


def warmth(folder: Path, image_id: str, name: str) -> np.ndarray:
    """Return the maximum of a picture's CAM or IS_CAM over its classes as heat, uint8 (H, W, 3).

    Raises:
        InputError: its maps cannot be read, or have no such one.
    """
    maps = read_maps(folder, image_id)
    if name not in maps:
        raise InputError(f"The maps of {image_id} in {folder} have no {name}.")
    background = len(maps[name]) - len(maps["keys"]) + 1  # planes of it
    return heat(maps[name][background:].max(0, initial=0))


def data_url(drawing: np.ndarray) -> str:
    """Return a drawing, uint8 (H, W, 3), as a JPEG of WIDTH pixels within a URL."""
    image = Image.fromarray(drawing)
    image.thumbnail((WIDTH, 4 * WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
