"""VOC at half size, a quarter of the work: ``python -m data.voc --halve FOLDER``."""

from functools import partial
from pathlib import Path

from PIL import Image

from data.base import Dataset
from data.loaders import for_each
from tool.errors import InputError
from tool.pictures import check_label, read_mask, save_label
from tool.record import Digests, Outputs
from tool.writer import NOTE, own_folder, write_atomic, write_json, write_lines, write_own

QUALITY = 95  # of the JPEGs


def halve(voc: Dataset, lists: dict[str, list[str]], folder: Path, num_workers: int) -> None:
    """Write the pictures of some lists, and these, at half size in the devkit's layout.

    Pictures are reduced by the Lanczos filter and masks to the nearest pixel; sides are rounded up.
    Annotations and lists are copied; the lists are written last. What is there is kept as long as
    its originals are the same.

    Raises:
        InputError: the folder is the devkit's own or somebody else's, or a mask has another size
            than its picture.
    """
    if folder.resolve() == voc.root.resolve():
        raise InputError(f"--halve {folder} is the folder of the originals. Name another one.")
    own_folder(folder, "data.voc")
    write_json(folder / NOTE, {"program": "data.voc"})
    ids = list(dict.fromkeys(image_id for ids in lists.values() for image_id in ids))
    sources = {
        "picture": [voc.image_path(image_id) for image_id in ids],
        "annotation": [_annotation(voc.root, image_id) for image_id in ids],
        "mask": _mask_digests(voc, folder, ids),
    }
    place = folder / "Annotations"  # the last file of a picture that is written
    halved = Outputs(folder, place, "data.voc", {}, voc.all_names, ids, ".xml", sources)
    missing = halved.open(restart=False)
    for_each(missing, partial(_halve_one, voc, folder), num_workers, "halving")
    halved.finish()
    for name, of_list in lists.items():
        write_lines(folder / f"ImageSets/Segmentation/{name}.txt", of_list, write_own)


def _mask_digests(voc: Dataset, folder: Path, ids: list[str]) -> list[str]:
    """Return a digest of every mask; an empty text of a picture that has none."""
    masks = {i: path for i in ids if (path := voc.mask_path(i)).is_file()}
    digests = dict(zip(masks, Digests(folder).of(masks.values()), strict=True))
    return [digests.get(image_id, "") for image_id in ids]


def _annotation(root: Path, image_id: str) -> Path:
    return root / f"Annotations/{image_id}.xml"


def _halve_one(voc: Dataset, folder: Path, image_id: str) -> None:
    image = voc.read(image_id)
    size = tuple(-(-side // 2) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    path = folder / f"JPEGImages/{image_id}.jpg"
    write_atomic(path, lambda file: small.save(file, "JPEG", quality=QUALITY))
    mask_path = voc.mask_path(image_id)
    if mask_path.is_file():
        mask = read_mask(mask_path)
        check_label(mask_path, mask, voc.num_classes, image.size)
        save_label(folder / f"SegmentationClass/{image_id}.png", mask, size[::-1])
    annotation = _annotation(voc.root, image_id).read_bytes()
    write_atomic(_annotation(folder, image_id), lambda file: file.write(annotation))
