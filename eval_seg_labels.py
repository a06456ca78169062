"""Step 2.4: mIoU of label pictures against ground-truth masks.

Reads   a folder of label PNGs (<session>/pseudo_label, or any other), the masks of --eval_list
Writes  <session>/eval_<folder>.json and a table
Try     python eval_seg_labels.py --dataset voc --session_name exp
        python eval_seg_labels.py --dataset voc --label_dir exp/ir_label
Expect  VOC train: 64.7 for CRF labels.

A label of 255 (unsure) counts as a class that is never right.
"""

import logging
from pathlib import Path

import numpy as np

from data.base import check_exist
from data.datasets import add_dataset_flags, open_dataset
from tool import cli
from tool.evaluate import evaluate, result_of
from tool.files import read_json, write_json
from tool.metrics import iou_table
from tool.outputs import settings_of
from tool.pictures import UNSURE, check_label, read_mask
from tool.run import run
from tool.session import Session

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

    def __call__(self, image_id: str, mask: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 (H, W), and int64 () pixels."""
        path = self.folder / f"{image_id}.png"
        label = read_mask(path)
        check_label(path, label, self.num_classes)
        return label, np.count_nonzero(label == UNSURE)


def result_path(session: Path, folder: Path) -> Path:
    """Return the file of a folder's result: eval_<folder>.json.

    Where that is the result of something else, of the maps (eval_cam.json) or of another folder of
    the same name, the name of the folder's parent stands in it too.
    """
    path = session / f"eval_{folder.name}.json"
    taken = path.exists() and read_json(path, "Delete it.").get("source") != str(folder)
    inside = folder.resolve().parent == session.resolve()
    if folder.name == "cam" or (taken and not inside):
        path = session / f"eval_{folder.resolve().parent.name}_{folder.name}.json"
    return path


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the result."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "eval_seg_labels", args)
    cli.pick_device(args.device)
    dataset = open_dataset(args)
    eval_list = args.eval_list or dataset.eval_list
    ids = dataset.ids(eval_list)
    folder = args.label_dir or session.path / "pseudo_label"
    mend = "Make them (make_seg_labels.py), or name another --label_dir"
    check_exist([folder / f"{image_id}.png" for image_id in ids], "labels", mend)
    masks = dataset.masks(ids, args.gt_path)
    settings = settings_of(folder, dataset.all_names)
    num_classes, name = dataset.num_classes, "eval_seg_labels"
    predict = LabelsOfFolder(folder, num_classes)
    path = result_path(session.path, folder)
    how = (predict, args.num_workers, dataset.read_mask, path.with_suffix(".csv"))
    matrix, unsure = evaluate(name, ids, masks, num_classes, *how, dataset.all_names)
    about = {"split": str(eval_list), "source": str(folder)}
    about |= {"unsure_pixels": int(unsure), "settings": settings}
    result = result_of(matrix, dataset.all_names, len(ids), **about)
    log.info("%s", iou_table(dataset.all_names, matrix.iou()))
    if unsure:
        log.info("%d pixels are unsure (255) and count as wrong", unsure)
    write_json(path, result)
    message = "%s   mIoU %.2f on the %d pictures of %s"
    log.info(message, folder.name, 100 * matrix.miou(), len(ids), eval_list)
    log.debug("%s written", path)


if __name__ == "__main__":
    run(main)
