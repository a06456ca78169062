"""Drawings of maps and labels over their pictures, for files that are there without."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data.base import Dataset
from data.loaders import for_each
from data.transforms import reduce
from tool.files import safe_name
from tool.maps import read_maps
from tool.pictures import (
    UNSURE,
    heat,
    label_overlay,
    overlay,
    read_mask,
    save_rgb,
    with_legend,
)

log = logging.getLogger(__name__)


def draw_missing(
    ids: list[str],
    source: Callable[[str], Path],
    target: Callable[[str], Path],
    draw: Callable[[str], None],
    num_workers: int,
) -> None:
    """Draw the files whose drawing is missing or older than they are, and say how many.

    ``source`` and ``target`` tell where the file of an id lies, and its drawing; ``draw``, which
    must be picklable, makes it. With ``num_workers`` 0 this process draws.
    """
    missing = [image_id for image_id in ids if _is_older(target(image_id), source(image_id))]
    if missing:
        for_each(missing, draw, num_workers, "drawings")
        log.info("%d drawings made in %s", len(missing), target(missing[0]).parent)


def draw_labels(
    dataset: Dataset, ids: list[str], labels: Path, folder: Path, num_workers: int
) -> None:
    """Lay the labels of a folder over their pictures, in another folder, where none are yet."""
    target = partial(drawing_path, folder)
    draw = partial(_draw_label, dataset, labels, folder)
    draw_missing(ids, lambda image_id: labels / f"{image_id}.png", target, draw, num_workers)


def drawing_path(folder: Path, image_id: str) -> Path:
    """Return where the drawing of a label lies."""
    return folder / f"{safe_name(image_id)}.png"


def map_drawing(session: Path, image_id: str, name: str = "background") -> Path:
    """Return where the drawing of a map lies, by the name of its class."""
    return session / "visual" / f"{safe_name(image_id)}_{safe_name(name)}.png"


def visualize(session: Path, image_id: str, picture: np.ndarray, names, is_cam: np.ndarray) -> None:
    """Write one heat map over the picture for each map; that of background is the last one."""
    for name, one in reversed(list(zip(names, is_cam, strict=True))):
        save_rgb(map_drawing(session, image_id, name), overlay(picture, heat(one)))


def visualize_stored(
    session: Path, dataset: Dataset, image_id: str, max_pixels: float = math.inf
) -> None:
    """Draw the maps of a picture that are there, over the picture, reduced if it is larger."""
    maps = read_maps(session / "npy", image_id, max_pixels=max_pixels)
    names = [dataset.all_names[key] for key in maps["keys"]]
    picture = np.array(reduce(dataset.read(image_id), max_pixels))
    visualize(session, image_id, picture, names, maps["IS_CAM"])


def _draw_label(dataset: Dataset, labels: Path, folder: Path, image_id: str) -> None:
    label = read_mask(labels / f"{image_id}.png")
    picture = np.array(dataset.read(image_id))
    names = {k: dataset.all_names[k] for k in np.unique(label).tolist() if k not in (0, UNSURE)}
    drawing = with_legend(label_overlay(picture, label), names)
    save_rgb(drawing_path(folder, image_id), drawing)


def _is_older(drawing: Path, file: Path) -> bool:
    return not drawing.exists() or drawing.stat().st_mtime_ns < file.stat().st_mtime_ns
