"""Step 2.4: mIoU of label pictures against ground-truth masks.

Reads   a folder of label PNGs (<session>/pseudo_label, or any other), the masks of --eval_list
Writes  <session>/eval_<folder>.json, <session>/eval_<folder>.csv (a row a picture)
Try     python eval_seg_labels.py --dataset voc --session_name exp
        python eval_seg_labels.py --dataset voc --label_dir exp/ir_label
Expect  VOC train: 64.7 for CRF labels.

A label of 255 (unsure) counts as a class that is never right.
"""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from data.datasets import make_parser, open_session
from data.evaluate import evaluate
from tool import cli
from tool.pictures import check_label, read_mask
from tool.run import run

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "gt_path", "eval_list")
    labels = "folder of PNGs; None is <session>/pseudo_label"
    parser.add_argument("--label_dir", type=Path, help=labels)
    return parser.parse_args(arguments)


def label_of(folder: Path, num_classes: int, image_id: str) -> tuple[np.ndarray, None]:
    """Return the label of a picture, uint8 (H, W), of which nothing else is counted."""
    path = folder / f"{image_id}.png"
    label = read_mask(path)
    check_label(path, label, num_classes)
    return label, None


def result_path(session: Path, folder: Path) -> Path:
    """Return the file of a folder's result: eval_<folder>.json.

    Of a folder elsewhere, or one that is called like the maps' result, the name of the folder's
    parent stands in it too.
    """
    folder = folder.resolve()
    inside = folder.parent == session.resolve()
    name = folder.name
    if not inside or name == "cam":
        name = f"{folder.parent.name}_{name}"
    return session / f"eval_{name}.json"


def main(arguments: cli.Words = None) -> None:
    """Print the table and write the result."""
    args = parse_arguments(arguments)
    session, _, dataset = open_session(args, "eval_seg_labels")
    folder = args.label_dir or session.path / "pseudo_label"
    predict = partial(label_of, folder, dataset.num_classes)
    remedy = "Make them (make_seg_labels.py), or name another --label_dir"
    found = evaluate(session, dataset, folder, lambda i: folder / f"{i}.png", predict, remedy)
    unsure = int(found.counts[:, -1].sum())
    if unsure:
        log.info("%d pixels are unsure (255) and count as wrong", unsure)
    found.write(result_path(session.path, folder), folder.name, unsure_pixels=unsure)


if __name__ == "__main__":
    run(main)
