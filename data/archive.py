"""The archive that PASCAL VOC's evaluation server takes."""

import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import BinaryIO

from data.base import Dataset, check_exist
from tool.errors import InputError
from tool.pictures import UNSURE, check_label, read_mask
from tool.writer import write_own

# Of competition 5 (trained on VOC alone) or 6 (other data too: ImageNet, COCO).
FOLDER = "results/VOC2012/Segmentation/{competition}_test_cls"
ENDINGS = (".tar.gz", ".tgz", ".zip")
# Bytes 24 and 25 of a PNG, in its header: bits a sample, and kind of colour, of which 3 is palette.
PNG_KIND, EIGHT_BIT_PALETTE = slice(24, 26), b"\x08\x03"


def write_archive(
    path: Path, competition: str, dataset: Dataset, ids: list[str], folder: Path
) -> None:
    """Check all label pictures, then write the archive.

    Args:
        path: with one of ENDINGS.
        competition: ``"comp5"`` or ``"comp6"``.
        dataset, ids: of the pictures; the archive holds exactly these, in this order.
        folder: of <id>.png.

    Raises:
        InputError: before anything is written, of a file that is missing, is no 8-bit palette PNG,
            has another size than its picture, or a class that the dataset does not have.
    """
    files = [folder / f"{image_id}.png" for image_id in ids]
    check_exist(files, "label pictures", "Run infer_seg.py on the whole list")
    for image_id, file in zip(ids, files, strict=True):
        label = read_mask(file)
        check_label(file, label, dataset.num_classes, dataset.read(image_id).size)
        with open(file, "rb") as header:
            is_palette = header.read(26)[PNG_KIND] == EIGHT_BIT_PALETTE
        if not is_palette or (label == UNSURE).any():
            raise InputError(f"{file} is no 8-bit palette PNG of classes alone. Make it again.")
    where = FOLDER.format(competition=competition)

    def pack(archive: BinaryIO) -> None:
        is_zip = path.suffix == ".zip"
        if is_zip:
            packed = zipfile.ZipFile(archive, "w")
        else:
            packed = tarfile.open(fileobj=archive, mode="w:gz")  # noqa: SIM115  # closed below
        with packed:
            add = packed.write if is_zip else partial(packed.add, filter=_anonymous)
            for file in files:
                add(file, f"{where}/{file.name}")

    write_own(path, pack)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take the owner's names and the time of the file away from a member."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
