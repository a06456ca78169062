"""The end of ``run_demo.sh``: a table, a picture that shows why, and results.json.

Reads   <session>/ and in it cam_only/: eval_*.json, npy/, pseudo_label/, seconds.txt; demo_data/
Writes  <session>/results.json, <session>/demo.png
Try     python -m data.demo.report demo
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data.demo.dataset import Demo
from tool.cli import Parser
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask, save_rgb
from tool.reader import Between, read_json
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
SIDE, GAP, MARGIN, TITLE, FONT = 160, 4, 64, 26, 15  # pixels; the whole is 880 wide
REMEDY = "Delete it, and run run_demo.sh again."

log = logging.getLogger(__name__)


def columns(demo: Demo, image_id: str, session: Path) -> list[np.ndarray]:
    """Return the pictures of one row, those of COLUMNS, uint8 (H, W, 3) each.

    An InputError says that a file is missing or damaged, or is not that of the picture.
    """
    picture = np.array(demo.read(image_id))
    layers = [
        read_maps(session / PLAIN / "npy", image_id).get("CAM", picture).max(0),
        read_maps(session / "npy", image_id)["IS_CAM"][1:].max(0),
        read_mask(session / "pseudo_label" / f"{image_id}.png"),
        read_mask(demo.mask_path(image_id)),
    ]
    for title, layer in zip(COLUMNS[1:], layers, strict=True):
        if layer.shape != picture.shape[:2]:
            raise InputError(f"{title} of {image_id} in {session} has another size. {REMEDY}")
    heats = [overlay(picture, heat(layer)) for layer in layers[:2]]
    return [picture, *heats, *(label_overlay(picture, layer) for layer in layers[2:])]


def draw(rows: list[list[np.ndarray]], names: list[str]) -> np.ndarray:
    """Return a grid of pictures, uint8 (H, W, 3), with COLUMNS above it and ``names`` beside it.

    The pictures of a row, uint8 (h, w, 3), have one size, and are scaled to a width of SIDE.
    """
    tiles = [[ImageOps.contain(Image.fromarray(p), (SIDE, 2 * SIDE)) for p in row] for row in rows]
    lefts = [MARGIN + column * (SIDE + GAP) for column in range(len(COLUMNS))]
    height = TITLE - GAP + sum(row[0].height + GAP for row in tiles)
    grid = Image.new("RGB", (lefts[-1] + SIDE, height), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT)
    for left, title in zip(lefts, COLUMNS, strict=True):
        pen.text((left + SIDE / 2, TITLE / 2), title, "black", font, anchor="mm")
    top = TITLE
    for row, name in zip(tiles, names, strict=True):
        for left, tile in zip(lefts, row, strict=True):
            grid.paste(tile, (left, top))
        place = MARGIN - 2 * GAP, top + row[0].height / 2
        pen.text(place, name, "black", font, anchor="rm", spacing=8, align="right")
        top += row[0].height + GAP
    return np.asarray(grid)


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write both files."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=form)
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
    grid = draw([columns(demo, ids[n], session) for n in shown], names)
    save_rgb(session / "demo.png", grid, write_own)

    log.info("mIoU on the %d training pictures, whose masks no step has learnt from", len(ids))
    for name, (result, text) in rows.items():
        log.info("  %-8s %6.2f   %s", name, 100 * result["miou"], text)
    log.info("all steps together: %d s", sum(seconds.values()))
    log.info("pictures that show why: %s", session / "demo.png")
    log.info("heat maps of every picture: %s", session / "visual")
    log.info("the same figures: %s", session / "results.json")


if __name__ == "__main__":
    run(main)
