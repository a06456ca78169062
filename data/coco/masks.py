"""Regions of MS COCO as run-length codes, and the masks that are drawn from them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_codes

from data.coco.dataset import COCO
from tool.errors import InputError
from tool.pictures import UNSURE, save_label, stored
from tool.reader import Damaged, check

CROWD = ("keep", "ignore", "drop")


Code = dict[str, Any]  # run lengths as pycocotools has them: ``size`` and compressed ``counts``


class Region(NamedTuple):
    """Where one object is."""

    class_id: int  # 1..80
    is_crowd: bool
    code: Code | None  # None where there is no area


class Picture(NamedTuple):
    """What an annotation file says of one picture."""

    image_id: str  # file name without its ending
    height: int  # pixels, as stored, before an EXIF orientation is applied
    width: int
    regions: list[Region]  # in the file's order


def encode(segmentation: Any, height: int, width: int, name: str = "it") -> Code | None:
    """Return an annotation's region as pycocotools' compressed run lengths.

    It is None where there is no area, which is so for polygons of less than three points.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a dict of ``size``
            [height, width] and ``counts``, run lengths as a list or as pycocotools' text.
        height, width: of the picture in pixels.
        name: of the annotation, for messages.

    Raises:
        ValueError: the region is of no such form, or does not fit the picture. pycocotools itself
            would read beyond its memory, or leave pixels to chance.
    """
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = run_lengths(counts)
        check(counts, [int], f"counts of {name}")
        code = {"size": [height, width], "counts": counts}
        fits = min(counts, default=0) >= 0 and sum(counts) == height * width
        if segmentation.get("size") != code["size"] or not fits:
            raise Damaged(f"the run lengths of {name} are not those of {height} x {width} pixels")
        return rle_codes.frPyObjects(code, height, width)
    check(segmentation, [list], f"the segmentation of {name}")
    for polygon in segmentation:
        numbers = np.array(polygon, float)
        # A stray point far outside would cost gigabytes while it is drawn; NaN is refused too.
        near = np.abs(numbers).max(initial=0) <= 2 * max(height, width)
        if numbers.ndim != 1 or numbers.size % 2 or not near:
            raise Damaged(f"a polygon of {name} is no list of pairs within the picture")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    return rle_codes.merge(rle_codes.frPyObjects(polygons, height, width)) if polygons else None


def run_lengths(text: str) -> list[int]:
    """Return the run lengths that pycocotools' compressed ``counts`` stand for.

    A letter holds five bits of a number, the lowest first, and whether more of it follow, as its
    distance from "0"; the highest bit is the sign, and from the fourth on, a number is added to the
    run before the last. A text that ends within a number loses that.
    """
    counts, number, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - ord("0")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return counts


def draw_mask(
    regions: Iterable[Region], height: int, width: int, crowd: str = "keep"
) -> np.ndarray:
    """Draw the regions of one picture, larger areas first, so that small objects stay visible.

    Of two equal areas the later is on top. ``crowd``, one of CROWD, draws crowds as their class, as
    255, or not at all. The result is uint8 (height, width) in pixels: 0 background, class ids, and
    255 in ignored crowds.
    """
    kept = [r for r in regions if r.code and not (r.is_crowd and crowd == "drop")]
    mask = np.zeros((height, width), np.uint8, order="F")  # as pycocotools' own arrays lie
    for region in sorted(kept, key=lambda region: rle_codes.area(region.code), reverse=True):
        is_ignored = region.is_crowd and crowd == "ignore"
        mask[rle_codes.decode(region.code).view(bool)] = UNSURE if is_ignored else region.class_id
    return np.ascontiguousarray(mask)


def draw_file(coco: COCO, crowd: str, picture: Picture) -> None:
    """Write the mask of a picture, turned as :func:`tool.pictures.read_rgb` turns the picture.

    A picture that is damaged, or whose size is not the annotated one, raises an InputError.
    """
    path = coco.image_path(picture.image_id)
    header = stored(path)
    width, height = header.size
    if (height, width) != (picture.height, picture.width):
        raise InputError(
            f"{path} is {width}x{height}, its annotation says {picture.width}x{picture.height}. "
            "Replace it with the original."
        )
    mask = draw_mask(picture.regions, height, width, crowd)
    save_label(coco.mask_path(picture.image_id), header.upright(mask))
