"""Pictures of a session beside what every step made of them.

They are the best, the worst and some others; or, where no mask has judged them, those of which most
and least is covered.
"""

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
from data.coverage import Cover, shown_in
from data.lists import spread
from log.figures import PLAIN, Run
from tool.errors import InputError
from tool.grid import grid
from tool.maps import read_maps
from tool.pictures import check_label, label_drawing, overlay, read_mask
from tool.reader import Damaged, decoding, read_table
from tool.writer import FORMULAS

WIDTH, INCHES = 480, 1.76  # of a drawing: pixels, and where it is printed
ROWS = 4  # pictures of the figure
QUALITY = 80
SEGMENTED = {"seg_deeplabv2_resnet101": "DeepLab v2", "seg_deeplabv1_resnet38": "DeepLab v1"}
# Evaluations whose IoU sort the gallery, and how many pictures each are the best, the worst and
# others, of those that no earlier one has judged. FREE are the shares that are covered, of pictures
# that none has judged.
FREE, UNLABELLED = "", 3  # pictures without a class that are shown besides
GROUPS = {"pseudo_label": 8, "crf_label": 8, "cam": 8, **dict.fromkeys(SEGMENTED, 3), FREE: 8}
LABELS = {"ir_label": "confident", "pseudo_label": "label", **SEGMENTED}  # folder, title
HARMLESS = tuple(f"'{letter}" for letter in FORMULAS)  # how ids of spreadsheets' formulas begin
REMEDY = "Run its evaluation again."


class Shown(NamedTuple):
    """A picture of the gallery."""

    image_id: str
    why: str
    drawings: dict[str, np.ndarray]  # uint8 (h, w, 3) by their titles, WIDTH wide at most


def gallery(run: Run, dataset: Dataset, covers: list[Cover]) -> Iterator[Shown]:
    """Yield the pictures to show; what cannot be read is noted in the run.

    Where nothing is judged, they are those of which ``covers`` say what is covered.
    """
    seen: set[str] = set()
    for name, each in GROUPS.items():
        values = run.part(read_mious, run.path / f"eval_{name}.csv") or {}
        what, high, low, of = "mIoU", "best", "worst", f" of {name}"
        if name == FREE:
            what, high, low, of = "covered", "most", "least", ""
            for cover in () if seen else covers:
                values[cover.image_id] = values.get(cover.image_id, 0) + cover.share
        new = values.keys() - seen
        seen |= new
        order = sorted(new, key=lambda image_id: (-values[image_id], image_id))
        empty = [i for i in order if np.size(shown_in(dataset, i)) == 0]  # that of None is 1
        order = [image_id for image_id in order if image_id not in empty]
        groups = {
            high: order[:each],
            low: order[each:][-each:],
            "other": spread(order[each:-each], each),
            "without a class": spread(empty, UNLABELLED),
        }
        for why, chosen in groups.items():
            for image_id in chosen:
                caption = f"{what} {100 * values[image_id]:.1f} %: {why}{of}"
                try:
                    yield Shown(image_id, caption, drawings(run.path, dataset, image_id))
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
    """Return a figure of some pictures, spread evenly over those that are drawn as the first is.

    Where a picture has the maps of several classes, that of the first one is drawn.
    """
    rows: dict[str, dict[str, np.ndarray]] = {}
    for shown in pictures:
        row = rows.setdefault(shown.image_id, {})
        for title, drawing in shown.drawings.items():
            row.setdefault(title.partition(":")[0], drawing)
    titles = list(rows[pictures[0].image_id])
    names = spread((name for name, row in rows.items() if list(row) == titles), ROWS)
    drawn = [drawing for name in names for drawing in rows[name].values()]
    return grid(drawn, titles, len(titles), INCHES, names)


def drawings(session: Path, dataset: Dataset, image_id: str) -> dict[str, np.ndarray]:
    """Return what there is of a picture, and fits, by its title.

    Raises:
        InputError: the picture itself cannot be read.
    """
    picture, names = np.array(dataset.read(image_id)), dataset.all_names
    found, plain = {"picture": picture}, session / PLAIN / "npy"
    folders = {"CAM": plain if plain.is_dir() else session / "npy", "IS-CAM": session / "npy"}
    for title, folder in folders.items():
        with suppress(InputError):
            maps = read_maps(folder, image_id, num_classes=len(names))
            planes = maps.get("CAM", ()) if title == "CAM" else maps["IS_CAM"][1:]
            for key, plane in zip(maps["keys"][1:], planes, strict=False):
                if plane.shape == picture.shape[:2]:
                    found[f"{title}: {names[key]}"] = overlay(picture, plane)
    paths = {title: session / folder / f"{image_id}.png" for folder, title in LABELS.items()}
    for title, path in {**paths, "truth": dataset.mask_path(image_id)}.items():
        with suppress(InputError):
            label = dataset.read_mask(path) if title == "truth" else read_mask(path)
            check_label(path, label, len(names), picture.shape[1::-1])
            found[title] = label_drawing(picture, label, names)
    return {title: thumbnail(drawing) for title, drawing in found.items()}


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
