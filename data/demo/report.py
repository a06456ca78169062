"""The end of ``run_demo.sh``: a table, a picture that shows why, and results.json.

Reads   <session>/ and the plain classifier's session: eval_*.json, npy/, seconds.txt; the demo
Writes  <session>/results.json, <session>/demo.png
Try     python -m data.demo.report --session_name demo --plain demo/cam_only
"""

import json
import logging
from pathlib import Path

import numpy as np

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from tool import cli
from tool.errors import InputError
from tool.files import write_atomic, write_json
from tool.maps import read_maps
from tool.pictures import heat, label_overlay, overlay, read_mask, read_rgb
from tool.run import run
from tool.session import Session

LABELS = {"crf_label": ("crf", "CRF"), "pseudo_label": ("irn", "IRN and walk")}
SEGMENTATION = "seg_deeplabv2_resnet101"  # folder of the pictures of val
PICTURES = 4  # rows of the picture

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--plain", type=Path, required=True, help="session without GSC")
    parser.set_defaults(dataset="demo")
    return parser.parse_args(arguments)


def read_result(path: Path) -> dict:
    """Return an evaluation file; an InputError says that it is not there, or is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Run run_demo.sh again.") from error


def read_seconds(path: Path) -> dict[str, int]:
    """Return the seconds of every step, in the order in which they ran first."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: int(seconds) for name, seconds in (line.split() for line in lines)}


def one_of_each(dataset: Dataset, ids: list[str], most: int) -> list[str]:
    """Return the first picture of each class in the order of the list, at most ``most``."""
    labels = dataset.labels(ids)  # (n, K)
    first = {int(np.flatnonzero(labels[:, k])[0]) for k in range(labels.shape[1])}
    return [ids[i] for i in sorted(first)[:most]]


def columns(
    dataset: Dataset, image_id: str, session: Path, plain: Path, threshold: float
) -> list[np.ndarray]:
    """Return the pictures of one row: see ``titles`` in :func:`draw`."""
    picture = np.array(read_rgb(dataset.image_path(image_id)))
    ours, other = read_maps(session / "npy", image_id), read_maps(plain / "npy", image_id)
    keys, cam, is_cam = ours["keys"], other["CAM"], ours["IS_CAM"]
    labels = [read_mask(session / folder / f"{image_id}.png") for folder in LABELS]
    cam_label = np.where(cam.max(0) > threshold, keys[1:][cam.argmax(0)], 0)
    return [
        picture,
        overlay(picture, heat(cam.max(0))),
        label_overlay(picture, cam_label),
        overlay(picture, heat(is_cam[1:].max(0))),
        label_overlay(picture, keys[is_cam.argmax(0)]),
        *(label_overlay(picture, label) for label in labels),
        label_overlay(picture, read_mask(dataset.mask_path(image_id))),
    ]


def draw(rows: list[list[np.ndarray]], titles: list[str], path: Path) -> None:
    """Write a grid of pictures with titles over the columns."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(2.1 * len(titles), 2.05 * len(rows) + 0.45), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=110))


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write both files."""
    args = parse_arguments(arguments)
    dataset = open_dataset(args)
    session = Session(args.session_name, "demo_report", args)
    plain = read_result(args.plain / "eval_cam.json")
    ours = read_result(session.path / "eval_cam.json")
    if "cam" not in plain:
        raise InputError(f"{args.plain} has no plain CAM. Run make_cam.py there with --save_cam.")
    threshold = plain["cam"]["threshold"]
    rows = {
        "cam": (plain["cam"]["miou"], f"plain CAM, at its best background threshold {threshold}"),
        "is_cam": (ours["miou"], "IS-CAM of SIPE, no threshold"),
    }
    for folder, (name, what) in LABELS.items():
        result = read_result(session.path / f"eval_{folder}.json")
        rows[name] = (result["miou"], f"pseudo labels by {what}")
    segmented = read_result(session.path / f"eval_{SEGMENTATION}.json")
    what = f"DeepLab v2 on the {segmented['images']} pictures of val, which no step has seen"
    rows["seg"] = (segmented["miou"], what)
    mious = {name: miou for name, (miou, _) in rows.items()}
    seconds = read_seconds(session.path / "seconds.txt")
    write_json(session.path / "results.json", {"miou": mious, "seconds": seconds})

    below = {name: f"\nmIoU {100 * miou:.1f}" for name, miou in mious.items()}
    titles = ["picture", "CAM", f"CAM > {threshold:.2f}{below['cam']}", "IS-CAM"]
    titles += [f"argmax of IS-CAM{below['is_cam']}"]
    titles += [what + below[name] for name, what in LABELS.values()] + ["truth"]
    examples = one_of_each(dataset, dataset.ids(dataset.train_list), PICTURES)
    pictures = [columns(dataset, i, session.path, args.plain, threshold) for i in examples]
    draw(pictures, titles, session.path / "demo.png")
    lines = [f"mIoU on the {ours['images']} training pictures, whose masks no step has learnt from"]
    lines += [f"  {name:<8} {100 * miou:6.2f}   {what}" for name, (miou, what) in rows.items()]
    lines.append(f"all steps together: {sum(seconds.values())} s")
    lines.append(f"pictures that show why: {session.path / 'demo.png'}")
    lines.append(f"heat maps of every picture: {session.path / 'visual'}")
    lines.append(f"the same figures: {session.path / 'results.json'}")
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    run(main)
