"""VOC at half size, a quarter of the work: ``python -m data.voc --halve FOLDER``."""

import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from data.base import Dataset
from tool.files import write_atomic, write_lines
from tool.pictures import read_mask, save_label
from tool.progress import progress

QUALITY = 95  # of the JPEGs

log = logging.getLogger(__name__)


def halve(voc: Dataset, list_names: list[str], folder: Path, num_workers: int) -> None:
    """Write the pictures of some lists at half size in the devkit's layout, once.

    Pictures are reduced by the Lanczos filter and masks to the nearest pixel; sides are rounded up.
    Annotations and lists are copied; the lists are written last.
    """
    of_lists = {name: voc.ids(name) for name in list_names}
    ids = list(dict.fromkeys(image_id for ids in of_lists.values() for image_id in ids))
    missing = [i for i in ids if not (folder / f"Annotations/{i}.xml").exists()]
    log.info(
        "%d pictures to be halved into %s, %d done before",
        len(ids),
        folder,
        len(ids) - len(missing),
    )
    with ProcessPoolExecutor(max(1, num_workers), get_context("spawn")) as pool:
        done = pool.map(partial(_halve_one, voc, folder), missing, chunksize=16)
        for _ in progress(done, len(missing), "halving"):
            pass
    for name, of_list in of_lists.items():
        write_lines(folder / f"ImageSets/Segmentation/{name}.txt", of_list)


def _halve_one(voc: Dataset, folder: Path, image_id: str) -> None:
    image = voc.read(image_id)
    size = tuple(-(-side // 2) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    path = folder / f"JPEGImages/{image_id}.jpg"
    write_atomic(path, lambda file: small.save(file, "JPEG", quality=QUALITY))
    mask_path = voc.mask_path(image_id)
    if mask_path.is_file():
        mask = Image.fromarray(read_mask(mask_path)).resize(size, Image.Resampling.NEAREST)
        save_label(folder / f"SegmentationClass/{image_id}.png", np.asarray(mask))
    annotation = (voc.root / f"Annotations/{image_id}.xml").read_bytes()
    write_atomic(folder / f"Annotations/{image_id}.xml", lambda file: file.write(annotation))
