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
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.base import check_exist
from tool import cli
from tool.files import write_json
from tool.metrics import ConfusionMatrix, iou_table
from tool.pictures import UNSURE, read_mask
from tool.progress import progress
from tool.session import Session, read_settings

CHUNK = 32  # pictures that a worker counts before it hands its matrix over

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--label_dir", type=Path, help="folder of PNGs; None is <session>/pseudo_label"
    )
    parser.add_argument("--gt_path", type=Path, help="folder of masks; None is the dataset's own")
    parser.add_argument("--eval_list", help="list name or file; None is the dataset's own")
    return parser.parse_args(arguments)


class LabelCounts(TorchDataset):
    """Confusion matrices of chunks of pictures, computed where the files are read."""

    def __init__(self, num_classes: int, labels: list[Path], masks: list[Path]) -> None:
        files = list(zip(labels, masks, strict=True))
        self.num_classes = num_classes
        self.chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, int]:
        """Return pictures, counts (C, C + 1), unsure pixels."""
        matrix, unsure = ConfusionMatrix(self.num_classes), 0
        for label_path, mask_path in self.chunks[index]:
            label = read_mask(label_path)
            unsure += int((label == UNSURE).sum())
            matrix.update_from(mask_path, label)
        return len(self.chunks[index]), matrix.counts, unsure


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the result."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "eval_seg_labels", args)
    cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    eval_list = args.eval_list or dataset.eval_list
    ids = dataset.ids(eval_list)
    folder = args.label_dir or session.path / "pseudo_label"
    labels = [folder / f"{image_id}.png" for image_id in ids]
    masks = [dataset.mask_path(image_id) for image_id in ids]
    if args.gt_path:
        masks = [args.gt_path / path.name for path in masks]
    check_exist(labels, "labels", "Make them (make_seg_labels.py), or name another --label_dir")
    check_exist(masks, "masks", "Complete them, or name their folder with --gt_path")

    counts = LabelCounts(dataset.num_classes, labels, masks)
    loader = DataLoader(counts, batch_size=None, num_workers=args.num_workers)
    matrix, unsure = ConfusionMatrix(dataset.num_classes), 0
    for _, chunk, one in progress(loader, len(ids), "eval_seg_labels", lambda item: item[0]):
        matrix.counts += np.asarray(chunk)
        unsure += one

    iou = matrix.iou()
    result = {
        "miou": matrix.miou(),
        "iou": {n: float(v) for n, v in zip(dataset.all_names, iou, strict=True)},
        "images": len(ids),
        "split": str(eval_list),
        "source": str(folder),
        "unsure_pixels": unsure,
        "settings": read_settings(folder),
    }
    log.info("%s", iou_table(dataset.all_names, iou))
    if unsure:
        log.info("%d pixels are unsure (255) and count as wrong", unsure)
    write_json(session.path / f"eval_{folder.name}.json", result)
    log.info(
        "%s   mIoU %.2f on the %d pictures of %s",
        *(folder.name, 100 * matrix.miou(), len(ids), eval_list),
    )


if __name__ == "__main__":
    cli.run(main)
