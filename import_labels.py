"""Labels from annotation tools and trainers, such as those that people corrected, as label PNGs.

Reads   --source: what export_labels.py writes, or its tool after it; a folder, a zip archive, or
        a JSON (coco); and the pictures
Writes  <out>/<id>.png (class ids) of every picture that --source names
Try     python import_labels.py --dataset folder --format labelme --source labels \\
            --out exp/corrected

``--out`` serves as --label_dir of train_seg.py and export_labels.py, and as --gt_path of the
evaluations. It appears whole or not at all, and nothing that is there is overwritten.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
import os
import shutil
import tempfile
from pathlib import Path

from data.datasets import add_dataset_flags, open_dataset
from data.label_formats import READERS
from data.lists import picture_path
from tool import cli
from tool.errors import InputError
from tool.pictures import check_label, save_label
from tool.reader import decoding, regular
from tool.run import run
from tool.writer import NOTE, new, write_json

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--format", choices=READERS, required=True)
    parser.add_argument("--source", type=Path, required=True, help="folder or file to read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: cli.Words = None) -> None:
    """Write the labels, and say of how many pictures."""
    args = parse_arguments(arguments)
    dataset, source = open_dataset(args), args.source
    with new(args.out) as draft, tempfile.TemporaryDirectory() as unpacked:
        if source.suffix == ".zip":
            with decoding(source, "Pack it again."):
                shutil.unpack_archive(source, unpacked)
            source = Path(unpacked)
        for name, label in READERS[args.format](source, dataset):
            image_id = dataset.id_of(picture_path(name))
            path = draft / f"{image_id}.png"
            if path.exists():
                raise InputError(f"{args.source} has two labels of {image_id}. Leave one.")
            regular(dataset.image_path(image_id), f"{dataset.root} has no such picture: {name}.")
            where = f"{args.source}: the label of {name}"
            check_label(where, label, dataset.num_classes, dataset.read(image_id).size)
            save_label(path, label)
        if not draft.exists():
            raise InputError(f"{args.source} holds no label for --format {args.format}.")
        log.info("%d labels in %s", len(os.listdir(draft)), args.out)
        write_json(draft / NOTE, {"program": "import_labels", "class_names": dataset.all_names})


if __name__ == "__main__":
    run(main)
