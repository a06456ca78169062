"""Step 2.4: mIoU of label pictures against ground-truth masks.

Reads   a folder of label PNGs (<session>/pseudo_label, or any other), the masks of --eval_list
Writes  <session>/eval_<folder>.json, <session>/eval_<folder>.csv (a row a picture)
Try     python eval_seg_labels.py --dataset voc --session_name exp
        python eval_seg_labels.py --dataset voc --label_dir exp/ir_label
Expect  VOC train: 64.7 for CRF labels.

A label of 255 (unsure) counts as a class that is never right.
"""

import logging
from pathlib import Path

import numpy as np

from data.base import check_exist
from data.datasets import add_dataset_flags
from data.steps import open_session
from tool import cli
from tool.evaluate import evaluate
from tool.metrics import iou_table
from tool.pictures import UNSURE, check_label, read_mask
from tool.run import run

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    labels = "folder of PNGs; None is <session>/pseudo_label"
    parser.add_argument("--label_dir", type=Path, help=labels)
    parser.add_argument("--gt_path", type=Path, help="folder of masks; None is the dataset's own")
    parser.add_argument("--eval_list", help="list name or file; None is the dataset's own")
    return parser.parse_args(arguments)


class LabelsOfFolder:
    """The label of a picture from its PNG, and how many of its pixels are unsure."""

    def __init__(self, folder: Path, num_classes: int) -> None:
        self.folder, self.num_classes = folder, num_classes

    def path_of(self, image_id: str) -> Path:
        """Return the file of a picture's label."""
        return self.folder / f"{image_id}.png"

    def __call__(self, image_id: str, mask: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 (H, W), and int64 () pixels."""
        path = self.path_of(image_id)
        label = read_mask(path)
        check_label(path, label, self.num_classes)
        return label, np.count_nonzero(label == UNSURE)


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


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the result."""
    args = parse_arguments(arguments)
    session, _, dataset = open_session(args, "eval_seg_labels")
    about = {"dataset": args.dataset, "list": str(args.eval_list or dataset.eval_list)}
    folder = args.label_dir or session.path / "pseudo_label"
    predict = LabelsOfFolder(folder, dataset.num_classes)
    files = [predict.path_of(image_id) for image_id in dataset.ids(about["list"])]
    check_exist(files, "labels", "Make them (make_seg_labels.py), or name another --label_dir")
    found = evaluate(
        "eval_seg_labels", session.path, dataset, about, args.gt_path, predict, args.num_workers
    )
    log.info("%s", iou_table(dataset.all_names, found.matrix.iou()))
    unsure = int(found.further)
    if unsure:
        log.info("%d pixels are unsure (255) and count as wrong", unsure)
    path = result_path(session.path, folder)
    found.write(path, unsure_pixels=unsure)
    session.accept()
    message = "%s   mIoU %.2f on the %d pictures of %s"
    log.info(message, folder.name, 100 * found.matrix.miou(), len(files), about["list"])
    log.debug("%s written", path)


if __name__ == "__main__":
    run(main)
