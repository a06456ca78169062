"""The end of ``run_demo.sh``: a table, a picture that shows why, and results.json.

Reads   <session>/ and in it cam_only/: eval_*.json, npy/, pseudo_label/, seconds.txt; demo_data/
Writes  <session>/results.json, <session>/demo.png
Try     python -m data.demo.report demo
"""

import logging
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.demo.dataset import Demo
from tool.cli import Parser
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask
from tool.reader import Between, decoding, read_json
from tool.results import read_seconds
from tool.run import run
from tool.writer import write_json, write_own

PLAIN = "cam_only"  # in the session: that of the classifier without GSC
RESULT = {"miou": Between(0, 1)}
TABLE = {
    "is_cam": ("cam", "IS-CAM of SIPE, no threshold"),
    "crf": ("crf_label", "pseudo labels by CRF"),
    "irn": ("pseudo_label", "pseudo labels by IRN and walk"),
    "seg": ("seg_deeplabv2_resnet101", "DeepLab v2 on the pictures of val, which no step has seen"),
}
COLUMNS = ("picture", "CAM", "IS-CAM", "label (IRN)", "truth")
ROWS = 4
SIDE, TITLE = 1.76, 0.26  # inches of a picture with its margin, and of the titles
REMEDY = "Delete it, and run run_demo.sh again."

log = logging.getLogger(__name__)


def columns(demo: Demo, image_id: str, session: Path) -> list[np.ndarray]:
    """Return the pictures of one row, those of COLUMNS, uint8 (H, W, 3) each.

    An InputError says that a file is missing or damaged, or is not that of the picture.
    """
    picture = np.array(demo.read(image_id))
    with decoding(f"What {session} has of {image_id}", REMEDY):
        maps = [
            read_maps(session / PLAIN / "npy", image_id)["CAM"],
            read_maps(session / "npy", image_id)["IS_CAM"][1:],
        ]
        labels = [
            read_mask(session / "pseudo_label" / f"{image_id}.png"),
            read_mask(demo.mask_path(image_id)),
        ]
        heats = [overlay(picture, heat(layers.max(0))) for layers in maps]
        return [picture, *heats, *(label_overlay(picture, label) for label in labels)]


def draw(rows: list[list[np.ndarray]], names: list[str]) -> Figure:
    """Return a grid of pictures, uint8 (H, W, 3), with COLUMNS above it and ``names`` beside it."""
    size = SIDE * len(COLUMNS), SIDE * len(rows) + TITLE
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False)
    for line, name, pictures in zip(grid, names, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write both files."""
    parser = Parser(__doc__)
    parser.add_argument("session", type=Path, help="folder of the run")
    session, demo = parser.parse_args(arguments).session, Demo()

    plain = session / PLAIN / "eval_cam.json"
    remedy = "Run make_cam.py there with --save_cam, and eval_cam.py."
    cam = read_json(plain, remedy, {"cam": {**RESULT, "threshold": float}})["cam"]
    rows = {"cam": (cam, f"plain CAM, at its best background threshold {cam['threshold']}")}
    for name, (file, text) in TABLE.items():
        rows[name] = (read_json(session / f"eval_{file}.json", REMEDY, RESULT), text)
    miou = {name: result["miou"] for name, (result, _) in rows.items()}
    seconds = read_seconds(session / "seconds.txt")  # in the order in which steps ran first
    write_json(session / "results.json", {"miou": miou, "seconds": seconds}, write_own)

    ids = demo.ids("train")
    labels = demo.labels(ids)  # (n, K)
    shown = sorted(set(labels.argmax(0)))[:ROWS]  # the first picture of each class
    names = ["\n".join(demo.class_names[k] for k in np.flatnonzero(labels[n])) for n in shown]
    figure = draw([columns(demo, ids[n], session) for n in shown], names)
    write_own(session / "demo.png", figure.savefig)

    log.info("mIoU on the %d training pictures, whose masks no step has learnt from", len(ids))
    for name, (result, text) in rows.items():
        log.info("  %-8s %6.2f   %s", name, 100 * result["miou"], text)
    log.info("all steps together: %d s", sum(seconds.values()))
    log.info("pictures that show why: %s", session / "demo.png")


if __name__ == "__main__":
    run(main)
