"""The end of ``run_demo.sh``: a table, a picture that shows why, and results.json.

Reads   <session>/ and the plain classifier's session: eval_*.json, npy/, seconds.txt; the demo
Writes  <session>/results.json, <session>/demo.png
Try     python -m data.demo.report --session_name demo --plain demo/cam_only
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from tool import cli
from tool.errors import InputError
from tool.files import read_json, write_json
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask, save_rgb
from tool.run import run
from tool.session import Session

LABELS = {"crf_label": ("crf", "CRF"), "pseudo_label": ("irn", "IRN and walk")}
SEGMENTATION = "seg_deeplabv2_resnet101"  # folder of the pictures of val
PICTURES = 4  # rows of the picture
COLUMNS = ("picture", "CAM", "IS-CAM", "label (IRN)", "truth")
MEND = "Run run_demo.sh again."
SIDE, GAP, MARGIN, HEAD, FONT = 160, 4, 64, 26, 15  # pixels; the whole is 880 wide

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--plain", type=Path, required=True, help="session without GSC")
    parser.set_defaults(dataset="demo")
    return parser.parse_args(arguments)


def one_of_each(dataset: Dataset, ids: list[str], most: int) -> list[str]:
    """Return the first picture of each class in the order of the list, at most ``most``."""
    labels = dataset.labels(ids)  # (n, K)
    first = {int(np.flatnonzero(labels[:, k])[0]) for k in range(labels.shape[1])}
    return [ids[i] for i in sorted(first)[:most]]


def columns(dataset: Dataset, image_id: str, session: Path, plain: Path) -> list[np.ndarray]:
    """Return the pictures of one row, those of COLUMNS, uint8 (H, W, 3) each."""
    picture = np.array(dataset.read(image_id))
    cam = read_maps(plain / "npy", image_id)["CAM"]  # (K, H, W)
    is_cam = read_maps(session / "npy", image_id)["IS_CAM"]  # (K + 1, H, W), background first
    return [
        picture,
        overlay(picture, heat(cam.max(0))),
        overlay(picture, heat(is_cam[1:].max(0))),
        label_overlay(picture, read_mask(session / "pseudo_label" / f"{image_id}.png")),
        label_overlay(picture, read_mask(dataset.mask_path(image_id))),
    ]


def draw(rows: list[list[np.ndarray]], names: list[list[str]]) -> np.ndarray:
    """Return a grid of pictures, uint8 (H, W, 3), with COLUMNS above it and class names beside it.

    The pictures of a row, uint8 (h, w, 3), have one size, and are scaled to a width of SIDE;
    ``names`` are those of the classes of every row.
    """
    heights = [round(SIDE * row[0].shape[0] / row[0].shape[1]) for row in rows]
    lefts = [MARGIN + column * (SIDE + GAP) for column in range(len(COLUMNS))]
    size = (lefts[-1] + SIDE, HEAD + sum(heights) + GAP * (len(rows) - 1))
    grid = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT)
    for left, title in zip(lefts, COLUMNS, strict=True):
        pen.text((left + SIDE / 2, HEAD / 2), title, "black", font, anchor="mm")
    top = HEAD
    for row, classes, height in zip(rows, names, heights, strict=True):
        for left, picture in zip(lefts, row, strict=True):
            grid.paste(Image.fromarray(picture).resize((SIDE, height)), (left, top))
        for line, name in enumerate(classes):
            y = top + height / 2 + (line - (len(classes) - 1) / 2) * 1.4 * FONT
            pen.text((MARGIN - 2 * GAP, y), name, "black", font, anchor="rm")
        top += height + GAP
    return np.asarray(grid)


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write both files."""
    args = parse_arguments(arguments)
    dataset = open_dataset(args)
    session = Session(args.session_name, "demo_report", args)
    plain = read_json(args.plain / "eval_cam.json", MEND)
    ours = read_json(session.path / "eval_cam.json", MEND)
    if "cam" not in plain:
        raise InputError(f"{args.plain} has no plain CAM. Run make_cam.py there with --save_cam.")
    threshold = plain["cam"]["threshold"]
    rows = {
        "cam": (plain["cam"]["miou"], f"plain CAM, at its best background threshold {threshold}"),
        "is_cam": (ours["miou"], "IS-CAM of SIPE, no threshold"),
    }
    for folder, (name, what) in LABELS.items():
        result = read_json(session.path / f"eval_{folder}.json", MEND)
        rows[name] = (result["miou"], f"pseudo labels by {what}")
    segmented = read_json(session.path / f"eval_{SEGMENTATION}.json", MEND)
    what = f"DeepLab v2 on the {segmented['images']} pictures of val, which no step has seen"
    rows["seg"] = (segmented["miou"], what)
    times = session.path / "seconds.txt"  # of every step, in the order in which they ran first
    lines = times.read_text().splitlines() if times.exists() else []
    seconds = {name: int(number) for name, number in map(str.split, lines)}
    results = {"miou": {name: miou for name, (miou, _) in rows.items()}, "seconds": seconds}
    write_json(session.path / "results.json", results)
    examples = one_of_each(dataset, dataset.ids(dataset.train_list), PICTURES)
    present = (np.flatnonzero(row) for row in dataset.labels(examples))
    names = [[dataset.class_names[k] for k in classes] for classes in present]
    pictures = [columns(dataset, image_id, session.path, args.plain) for image_id in examples]
    save_rgb(session.path / "demo.png", draw(pictures, names))
    lines = [f"mIoU on the {ours['images']} training pictures, whose masks no step has learnt from"]
    lines += [f"  {name:<8} {100 * miou:6.2f}   {what}" for name, (miou, what) in rows.items()]
    lines += [
        f"all steps together: {sum(seconds.values())} s",
        f"pictures that show why: {session.path / 'demo.png'}",
        f"heat maps of every picture: {session.path / 'visual'}",
        f"the same figures: {session.path / 'results.json'}",
    ]
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    run(main)
