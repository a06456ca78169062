"""Pictures of a session: the best, the worst and some others, beside what every step made."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.base import Dataset
from log.report.figures import SEGMENTATION, Run, read_pictures
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask

EACH = 8  # best, worst, and at random
WIDTH = 200  # pixels of a drawing
QUALITY = 80
JUDGED = ("pseudo_label", "crf_label", "cam")  # whose IoU a picture sorts the gallery


class Shown(NamedTuple):
    """A picture of the gallery."""

    image_id: str
    why: str  # best, worst, random
    miou: float
    drawings: list[tuple[str, str]]  # title, data URL of a JPEG


def gallery(run: Run, dataset: Dataset) -> Iterator[Shown]:
    """Yield the pictures, sorted within their groups by IoU; none without an evaluation's table."""
    tables = (read_pictures(run.path, name) for name in JUDGED)
    mious = next((table for table in tables if table), {})
    order = sorted(mious, key=mious.get, reverse=True)
    rest = order[EACH:-EACH] if len(order) > 2 * EACH else []
    chosen = np.random.default_rng(0).permutation(len(rest))[:EACH]
    groups = {
        "best": order[:EACH],
        "worst": order[max(EACH, len(order) - EACH) :],
        "random": [rest[i] for i in sorted(chosen)],
    }
    for why, ids in groups.items():
        for image_id in ids:
            yield Shown(image_id, why, mious[image_id], list(drawings(run, dataset, image_id)))


def drawings(run: Run, dataset: Dataset, image_id: str) -> Iterator[tuple[str, str]]:
    """Yield title and data URL of everything that there is of a picture."""
    picture = np.array(dataset.read(image_id))

    def of_label(path: Path, read: Callable = read_mask) -> np.ndarray:
        return label_overlay(picture, read(path))

    def of_map(name: str) -> np.ndarray:
        maps = read_maps(run.path / "npy", image_id)[name]
        foreground = maps if name == "CAM" else maps[1:]
        return overlay(picture, heat(foreground.max(0) if len(foreground) else maps[0] * 0))

    ways: dict[str, Callable[[], np.ndarray]] = {
        "picture": lambda: picture,
        "truth": lambda: of_label(dataset.mask_path(image_id), dataset.read_mask),
        "CAM": lambda: of_map("CAM"),
        "IS-CAM": lambda: of_map("IS_CAM"),
        "confident": lambda: of_label(run.path / "ir_label" / f"{image_id}.png"),
        "label": lambda: of_label(run.path / "pseudo_label" / f"{image_id}.png"),
    }
    for name in SEGMENTATION:
        folder = run.path / name
        ways["segmentation"] = lambda folder=folder: of_label(folder / f"{image_id}.png")
    for title, draw in ways.items():
        try:
            yield title, data_url(draw())
        except (InputError, KeyError, OSError, ValueError):
            continue  # that step has not made it


def data_url(drawing: np.ndarray) -> str:
    """Return a drawing, uint8 (H, W, 3), as a JPEG of WIDTH pixels within a URL."""
    image = Image.fromarray(drawing)
    image.thumbnail((WIDTH, 4 * WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
