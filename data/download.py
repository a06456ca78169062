"""The official archives of the datasets, by torchvision's own download code, each fetched once.

An archive is fetched into ``<folder>/downloads``, compared with its checksum, unpacked beside the
folder's other content, and deleted. What was interrupted goes on with the archive it stopped at; an
archive whose content is there already is not fetched.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from tool.errors import InputError

GB = 10**9
UNPACKING = ".unpacking"  # a folder that a killed process may leave

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
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    devkit = DATASET_YEAR_DICT["2012"]
    lists = {
        f"benchmark_RELEASE/dataset/{name}.txt": f"sbd/{name}.txt" for name in ("train", "val")
    }
    return [
        Archive(devkit["url"], devkit["md5"], 2.0, {devkit["base_dir"]: root_name}),
        Archive(SBDataset.url, SBDataset.md5, 1.4, lists),
    ]


COCO_URL = "http://images.cocodataset.org/"
COCO_ARCHIVES = [
    Archive(
        f"{COCO_URL}annotations/annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        0.25,
        {
            f"annotations/{name}2014.json": f"annotations/{name}2014.json"
            for name in ("instances_train", "instances_val")
        },
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

    Raises:
        InputError: torchvision is missing, there is no network or no space, or a file differs from
            its checksum.
    """
    wanted = [archive for archive in archives if not archive.is_there(folder)]
    for archive in archives:
        if archive not in wanted:
            log.info("%s: its content is in %s", archive.name, folder)
    if not wanted:
        return
    try:
        from torchvision.datasets.utils import check_integrity, download_url, extract_archive
    except ImportError as error:
        raise InputError("--download needs torchvision: pip install torchvision") from error
    for archive in wanted:
        log.info("%s: %.1f GB, from %s", archive.name, archive.gigabytes, archive.url)
    downloads = folder / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        _check_space(wanted, downloads)
        for archive in wanted:
            file = downloads / archive.name
            if file.exists() and not check_integrity(file, archive.md5):
                log.info("%s is not whole and is fetched anew", file)
                file.unlink()
            download_url(archive.url, str(downloads), archive.name, archive.md5)
            log.info("unpacking %s", file)
            unpacking = downloads / UNPACKING
            shutil.rmtree(unpacking, ignore_errors=True)
            extract_archive(str(file), str(unpacking))
            for name, path in archive.content.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(folder / path, ignore_errors=True)
                os.replace(unpacking / name, folder / path)
            shutil.rmtree(unpacking)
            file.unlink()
        downloads.rmdir()
    except URLError as error:
        raise InputError(
            f"{archive.url} cannot be reached ({error.reason}). Look at the network, or put the "
            f"file into {downloads} by hand; the same command goes on."
        ) from error
    except RuntimeError as error:  # torchvision's, of a checksum
        raise InputError(
            f"{file} differs from its checksum {archive.md5}, so it is not whole. The same command "
            "fetches it anew."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{archive.name} could not be fetched or unpacked in {downloads}: {reason}. The same "
            "command goes on."
        ) from error


def _check_space(archives: list[Archive], downloads: Path) -> None:
    """Raise an InputError where what is still to be fetched and unpacked does not fit."""
    needed = 2 * sum(archive.gigabytes for archive in archives)
    free = shutil.disk_usage(downloads).free / GB
    if free < needed:
        raise InputError(
            f"{downloads} has {free:.1f} GB free; the archives and what is in them take up to "
            f"{needed:.1f}. Make room, or name another --dataset_root."
        )
