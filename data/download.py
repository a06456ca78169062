"""The official archives of the datasets, by torchvision's own download code, each fetched once.

An archive is fetched into ``<folder>/downloads``, compared with its checksum, unpacked beside the
folder's other content, and deleted. What was interrupted goes on with the archive it stopped at; an
archive whose content is there already is not fetched.
"""

import logging
import os
import shutil
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from tool.reader import decoding
from tool.writer import claim

PATIENCE = 60  # seconds that a silent server is waited for

log = logging.getLogger(__name__)


class Archive(NamedTuple):
    """An archive, and where its content belongs."""

    url: str
    md5: str  # its checksum, 32 digits
    content: dict[str, str]  # name in the archive -> path below the folder


def voc_archives(root_name: str) -> list[Archive]:
    """Return the devkit's archive, whose VOC2012 is to be called so, and that of SBD's lists."""
    devkit = DATASET_YEAR_DICT["2012"]
    lists = {
        f"benchmark_RELEASE/dataset/{name}.txt": f"sbd/dataset/{name}.txt"
        for name in ("train", "val")
    }
    return [
        Archive(devkit["url"], devkit["md5"], {devkit["base_dir"]: root_name}),
        Archive(SBDataset.url, SBDataset.md5, lists),
    ]


COCO_URL = "http://images.cocodataset.org/"
COCO_ANNOTATIONS = [f"annotations/instances_{split}2014.json" for split in ("train", "val")]
COCO_ARCHIVES = [
    Archive(
        f"{COCO_URL}annotations/annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        {name: name for name in COCO_ANNOTATIONS},
    ),
    Archive(
        f"{COCO_URL}zips/val2014.zip",
        "a3d79f5ed8d289b7a7554ce06a5782b3",
        {"val2014": "images/val2014"},
    ),
    Archive(
        f"{COCO_URL}zips/train2014.zip",
        "0da8c0bd3d6becc4dcb32757491aca88",
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
    remedy = (
        f"Look at the network and the space, or put the file into {downloads} by hand; the same "
        "command goes on."
    )
    socket.setdefaulttimeout(PATIENCE)
    with claim(downloads / ".lock", f"fetching into {folder}"):
        for url, md5, content in archives:
            if all((folder / path).exists() for path in content.values()):
                continue
            log.info("fetching %s", url)
            unpacking = TemporaryDirectory(dir=downloads)
            with decoding(f"The download of {url}", remedy), unpacking as unpacked:
                download_and_extract_archive(url, downloads, unpacked, md5=md5)
                for name, path in content.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    if not (folder / path).exists():
                        os.replace(Path(unpacked) / name, folder / path)
                (downloads / Path(url).name).unlink()
        shutil.rmtree(downloads)
