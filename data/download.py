"""The official archives of the datasets, by torchvision's own download code, each fetched once.

An archive is fetched into ``<folder>/downloads``, compared with its checksum, unpacked beside the
folder's other content, and deleted. What was interrupted goes on with the archive it stopped at; an
archive whose content is there already is not fetched.
"""

import logging
import os
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from tool.errors import InputError
from tool.writer import claim

GB = 10**9
PATIENCE = 60  # seconds that a silent server is waited for
UNPACKING = ".unpacking"  # a folder that a killed process may leave

# RuntimeError is torchvision's, of a checksum.
FAULTS = (RuntimeError, OSError, HTTPException, tarfile.TarError, zipfile.BadZipFile)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """An archive, and where its content belongs.

    Attributes:
        url: of the file.
        md5: its checksum, 32 digits.
        gigabytes: of the archive; unpacked it takes as much again, or less.
        content: name in the archive -> path below the folder.
    """

    url: str
    md5: str
    gigabytes: float
    content: dict[str, str]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    def is_there(self, folder: Path) -> bool:
        return all((folder / path).exists() for path in self.content.values())


def voc_archives(root_name: str) -> list[Archive]:
    """Return the devkit's archive, whose VOC2012 is to be called so, and that of SBD's lists."""
    devkit = DATASET_YEAR_DICT["2012"]
    lists = {
        f"benchmark_RELEASE/dataset/{name}.txt": f"sbd/{name}.txt" for name in ("train", "val")
    }
    return [
        Archive(devkit["url"], devkit["md5"], 2.0, {devkit["base_dir"]: root_name}),
        Archive(SBDataset.url, SBDataset.md5, 1.4, lists),
    ]


COCO_URL = "http://images.cocodataset.org/"
COCO_ANNOTATIONS = [f"annotations/instances_{split}2014.json" for split in ("train", "val")]
COCO_ARCHIVES = [
    Archive(
        f"{COCO_URL}annotations/annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        0.25,
        {name: name for name in COCO_ANNOTATIONS},
    ),
    Archive(
        f"{COCO_URL}zips/val2014.zip",
        "a3d79f5ed8d289b7a7554ce06a5782b3",
        6.6,
        {"val2014": "images/val2014"},
    ),
    Archive(
        f"{COCO_URL}zips/train2014.zip",
        "0da8c0bd3d6becc4dcb32757491aca88",
        13.5,
        {"train2014": "images/train2014"},
    ),
]


def fetch(archives: list[Archive], folder: Path) -> None:
    """Bring the content of archives into a folder, of which nothing is there twice.

    What stands in the folder already is never replaced, and one process at a time fetches.

    Raises:
        InputError: there is no network or no space, or a file differs from its checksum.
    """
    downloads = folder / "downloads"
    with claim(downloads / ".lock", f"fetching into {folder}"):
        wanted = [archive for archive in archives if not archive.is_there(folder)]
        log.info("%d of %d archives are to be fetched", len(wanted), len(archives))
        _check_space(wanted, downloads)
        for archive in wanted:
            log.info("%.1f GB from %s", archive.gigabytes, archive.url)
            with _in_one_sentence(archive, downloads):
                _fetch_one(archive, folder, downloads)
        shutil.rmtree(downloads)


def _fetch_one(archive: Archive, folder: Path, downloads: Path) -> None:
    file, unpacking = downloads / archive.name, downloads / UNPACKING
    download_url(archive.url, str(downloads), archive.name, archive.md5)
    log.info("unpacking %s", file)
    if unpacking.exists():
        shutil.rmtree(unpacking)
    extract_archive(str(file), str(unpacking))
    for name, path in archive.content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / path).exists():
            os.replace(unpacking / name, folder / path)
    file.unlink()


@contextmanager
def _in_one_sentence(archive: Archive, downloads: Path) -> Iterator[None]:
    """Turn what keeps an archive from being fetched or unpacked into an InputError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except FAULTS as error:
        raise InputError(
            f"{archive.url} could not be fetched or unpacked in {downloads}: {error}. Look at the "
            f"network, or put the file into {downloads} by hand; the same command goes on."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _check_space(archives: list[Archive], downloads: Path) -> None:
    """Raise an InputError where what is still to be fetched and unpacked does not fit."""
    needed = 2 * sum(archive.gigabytes for archive in archives)
    free = shutil.disk_usage(downloads).free / GB
    if free < needed:
        raise InputError(
            f"{downloads} has {free:.1f} GB free; the archives and what is in them take up to "
            f"{needed:.1f}. Make room, or name another --dataset_root."
        )
