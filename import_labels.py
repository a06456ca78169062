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
import tempfile
import zipfile
from pathlib import Path

from data.datasets import add_dataset_flags, open_dataset
from data.label_formats import FORMATS
from tool import cli
from tool.errors import InputError
from tool.pictures import save_label
from tool.reader import decoding
from tool.run import run
from tool.writer import NOTE, new, write_json

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__)
    add_dataset_flags(parser)
    formats = [name for name, one in FORMATS.items() if one.read]
    parser.add_argument("--format", choices=formats, required=True)
    parser.add_argument("--source", type=Path, required=True, help="folder or file to read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Write the labels, and say of how many pictures."""
    args = parse_arguments(arguments)
    dataset, source, done = open_dataset(args), args.source, set()
    with new(args.out) as draft, tempfile.TemporaryDirectory() as unpacked:
        if zipfile.is_zipfile(source):
            with decoding(source, "Pack it again."):
                zipfile.ZipFile(source).extractall(unpacked)
            source = Path(unpacked)
        for image_id, label in FORMATS[args.format].read(source, dataset):
            if image_id in done:
                raise InputError(f"{args.source} has two labels of {image_id}. Leave one.")
            save_label(draft / f"{image_id}.png", label)
            done.add(image_id)
        if not done:
            raise InputError(f"{args.source} holds no label for --format {args.format}.")
        write_json(draft / NOTE, {"program": "import_labels", "class_names": dataset.all_names})
    log.info("%d labels in %s", len(done), args.out)


if __name__ == "__main__":
    run(main)
