"""The end of ``run_demo.sh``: a table, a picture that shows why, and results.json.

Reads   <session>/ and in it cam_only/: eval_*.json, npy/, pseudo_label/, seconds.txt; demo_data/
Writes  <session>/results.json, <session>/demo.png
Try     python -m data.demo.report demo
"""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from data.demo.dataset import Demo
from tool.cli import Parser
from tool.grid import grid
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
WIDTH = 1.76  # inches of a picture
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


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write both files."""
    parser = Parser(__doc__)
    parser.add_argument("session", type=Path, help="folder of the run")
    session, demo = parser.parse_args(arguments).session, Demo()

    plain = session / PLAIN / "eval_cam.json"
    remedy = "Run make_cam.py there with --save_cam, and eval_cam.py."
    cam = read_json(plain, remedy, {"cam": {**RESULT, "threshold": float}})["cam"]
    scores = {"cam": (cam, f"plain CAM, at its best background threshold {cam['threshold']}")}
    for name, (file, text) in TABLE.items():
        scores[name] = (read_json(session / f"eval_{file}.json", REMEDY, RESULT), text)
    miou = {name: result["miou"] for name, (result, _) in scores.items()}
    seconds = read_seconds(session / "seconds.txt")  # in the order in which steps ran first
    write_json(session / "results.json", {"miou": miou, "seconds": seconds}, write_own)

    ids = demo.ids("train")
    labels = demo.labels(ids)  # (n, K)
    shown = sorted(set(labels.argmax(0)))[:ROWS]  # the first picture of each class
    names = ["\n".join(demo.class_names[k] for k in np.flatnonzero(labels[n])) for n in shown]
    rows = [columns(demo, ids[n], session) for n in shown]
    figure = grid(rows, [COLUMNS], WIDTH, names)
    write_own(session / "demo.png", partial(figure.savefig, bbox_inches="tight"))

    log.info("mIoU on the %d training pictures, whose masks no step has learnt from", len(ids))
    for name, (result, text) in scores.items():
        log.info("  %-8s %6.2f   %s", name, 100 * result["miou"], text)
    log.info("all steps together: %d s", sum(seconds.values()))
    log.info("pictures that show why: %s", session / "demo.png")


if __name__ == "__main__":
    run(main)
