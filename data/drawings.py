"""Drawings of maps and labels over their pictures, which follow both by content."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data.base import Dataset
from data.loaders import for_each
from data.picture_loop import outputs_of
from data.transforms import reduce
from tool.maps import read_maps
from tool.pictures import UNSURE, heat, label_overlay, overlay, read_mask, save_rgb, with_legend
from tool.record import Outputs
from tool.writer import safe_name

LONGEST = 240  # bytes of a name, which leaves room for that of the unfinished file


def draw_labels(outputs: Outputs, dataset: Dataset, restart: bool, num_workers: int) -> None:
    """Lay the labels that a program wrote over their pictures, in <session>/visual_<folder>.

    Args:
        outputs: the finished labels.
        dataset: of the pictures.
        restart: draw everything again, not only what is missing or of other labels and pictures.
        num_workers: processes that draw.
    """
    folder = outputs.session / f"visual_{outputs.folder.name}"
    draw = partial(_draw_label, dataset, outputs.folder, folder)
    _draw(outputs, dataset, folder, ".png", draw, restart, num_workers)


def draw_maps(
    outputs: Outputs, dataset: Dataset, restart: bool, num_workers: int, max_pixels: float
) -> None:
    """Draw maps over their pictures, in <session>/visual; see :func:`draw_labels`.

    Larger pictures are drawn reduced to ``max_pixels``.
    """
    folder = outputs.session / "visual"
    draw = partial(draw_map, dataset, outputs.folder, folder, max_pixels)
    _draw(outputs, dataset, folder, "_background.png", draw, restart, num_workers)


def _draw(
    outputs: Outputs,
    dataset: Dataset,
    folder: Path,
    ending: str,
    draw: Callable[[str], None],
    restart: bool,
    num_workers: int,
) -> None:
    """Call ``draw``, which must be picklable, for the ids whose drawing is missing or outdated."""
    ids = outputs.ids
    files = [outputs.path_of(image_id) for image_id in ids]
    about = (folder, outputs.program, {}, dataset, ids, ending)
    drawings = outputs_of(outputs.session, *about, file=files)
    for_each(drawings.open(restart), draw, num_workers, "drawings")
    drawings.finish()


def draw_map(dataset: Dataset, npy: Path, folder: Path, max_pixels: float, image_id: str) -> None:
    """Write one heat map over the picture for each of its maps; that of background is the last."""
    maps = read_maps(npy, image_id, max_pixels=max_pixels)
    picture = np.array(reduce(dataset.read(image_id), max_pixels))
    for key, one in reversed(list(zip(maps["keys"], maps["IS_CAM"], strict=True))):
        room = LONGEST - len(os.fsencode(image_id)) - len("_.png")
        name = safe_name(dataset.all_names[key], room)
        save_rgb(folder / f"{image_id}_{name}.png", overlay(picture, heat(one)))


def _draw_label(dataset: Dataset, labels: Path, folder: Path, image_id: str) -> None:
    label = read_mask(labels / f"{image_id}.png")
    picture = np.array(dataset.read(image_id))
    names = {k: dataset.all_names[k] for k in np.unique(label).tolist() if k not in (0, UNSURE)}
    drawing = with_legend(label_overlay(picture, label), names)
    save_rgb(folder / f"{image_id}.png", drawing)
