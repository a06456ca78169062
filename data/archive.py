"""The archive that PASCAL VOC's evaluation server takes."""

import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tool.writer import write_own

# Of competition 5 (trained on VOC alone) or 6 (other data too: ImageNet, COCO).
FOLDER = "results/VOC2012/Segmentation/{competition}_test_cls"
ENDINGS = (".tar.gz", ".tgz", ".zip")


def write_archive(path: Path, competition: str, files: list[Path]) -> None:
    """Write the archive.

    Args:
        path: with one of ENDINGS.
        competition: ``"comp5"`` or ``"comp6"``.
        files: <id>.png of infer_seg.py; the archive holds exactly these, in this order.
    """
    where = FOLDER.format(competition=competition)

    def pack(archive: BinaryIO) -> None:
        if path.suffix == ".zip":
            packed = zipfile.ZipFile(archive, "w")
            add = packed.write
        else:
            packed = tarfile.open(fileobj=archive, mode="w:gz")  # noqa: SIM115  # closed below
            add = partial(packed.add, filter=_anonymous)
        with packed:
            for file in files:
                add(file, f"{where}/{file.name}")

    write_own(path, pack)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take the owner's names and the time of the file away from a member."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
