"""Regions of MS COCO as run-length codes, and the masks that are drawn from them."""

import signal
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codes

from data.coco.dataset import COCO
from tool.errors import InputError
from tool.picture_files import TURNS, open_picture, orientation_of
from tool.pictures import UNSURE, save_label
from tool.progress import progress

CROWD = ("keep", "ignore", "drop")
JOB = 32  # pictures that a process draws before it reports
LONGEST_NUMBER = 7  # characters of a run length: 35 bits, no picture has as many pixels


class Region(NamedTuple):
    """Where one object is."""

    class_id: int  # 1..80
    is_crowd: bool
    code: bytes | None  # run lengths in pycocotools' compressed form; None where there is no area


class Picture(NamedTuple):
    """What an annotation file says of one picture."""

    image_id: str  # file name without its ending
    height: int  # pixels, as stored, before an EXIF orientation is applied
    width: int
    regions: list[Region]  # in the file's order


def encode(segmentation: Any, height: int, width: int) -> bytes | None:
    """Return an annotation's region as what pycocotools calls ``counts``, compressed run lengths.

    It is None where there is no area, which is so for polygons of less than three points. A region
    that is of no form as below, or does not fit the picture, raises a ValueError.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a dict of ``size``
            [height, width] and ``counts``, a list of run lengths or COCO's text for it.
        height, width: of the picture.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"a run-length code of size {shortened(size)} for {[height, width]}")
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        # pycocotools itself would read beyond its memory, or leave pixels to chance.
        if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("run lengths that are no whole numbers")
        if sum(counts) != height * width:
            raise ValueError(f"run lengths of {sum(counts)} pixels, not {height * width}")
        code = {"size": [height, width], "counts": counts}
        return rle_codes.frPyObjects(code, height, width)["counts"]
    if not isinstance(segmentation, list):
        raise ValueError(f"a segmentation that is a {type(segmentation).__name__}")
    polygons = []
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a polygon that is no list of pairs ({error})") from error
        # A stray point far outside would cost gigabytes while it is drawn; NaN is refused too.
        if not (np.abs(points) <= 2 * max(height, width)).all():
            raise ValueError("a polygon that reaches far beyond the picture")
        if len(points) >= 3:
            polygons.append(points.ravel())
    if not polygons:
        return None
    return rle_codes.merge(rle_codes.frPyObjects(polygons, height, width))["counts"]


def run_lengths(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text.

    A character holds 5 bits and whether more follow; from the fourth on, numbers are differences to
    the last but one. A ValueError says that the text is cut off, has other characters, or has a
    number of more than LONGEST_NUMBER of them.
    """
    counts: list[int] = []
    number = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64:
            raise ValueError("a compressed run-length code with odd characters")
        if shift == 5 * LONGEST_NUMBER:
            raise ValueError("a compressed run-length code with a number that is too long")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (code & 16) << (shift - 4)  # the highest bit is a sign
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("a compressed run-length code that is cut off")
    return counts


def draw_mask(
    regions: Iterable[Region], height: int, width: int, crowd: str = "keep"
) -> np.ndarray:
    """Draw the regions of one picture, larger areas first, so that small objects stay visible.

    Of two equal areas the later is on top. ``crowd``, one of CROWD, draws crowds as their class, as
    255, or not at all. The result is uint8 (height, width) in pixels: 0 background, class ids, and
    255 in ignored crowds.
    """
    drawn = []
    for region in regions:
        if region.code is None or (region.is_crowd and crowd == "drop"):
            continue
        code = {"size": [height, width], "counts": region.code}
        value = UNSURE if region.is_crowd and crowd == "ignore" else region.class_id
        drawn.append((int(rle_codes.area(code)), value, code))
    mask = np.zeros((height, width), np.uint8, order="F")  # as pycocotools' own arrays lie
    for _, value, code in sorted(drawn, key=lambda region: region[0], reverse=True):
        mask[rle_codes.decode(code).view(bool)] = value
    return np.ascontiguousarray(mask)


def draw_files(coco: COCO, pictures: list[Picture], crowd: str) -> int:
    """Write the masks of some pictures, each whole or not at all; return how many.

    A picture that is damaged, or does not fit its annotation, raises an InputError.
    """
    for picture in pictures:
        turn = TURNS.get(check_picture(coco, picture))
        mask = draw_mask(picture.regions, picture.height, picture.width, crowd)
        if turn is not None:  # as tool.pictures.read_rgb turns the picture
            mask = np.asarray(Image.fromarray(mask).transpose(turn))
        save_label(coco.mask_path(picture.image_id), mask)
    return len(pictures)


def check_picture(coco: COCO, picture: Picture) -> int:
    """Return a picture's EXIF orientation, 1 where it has none.

    A picture that cannot be read, or whose size is not the annotated one, raises an InputError.
    """
    path = coco.image_path(picture.image_id)
    with open_picture(path, decode=False) as image:
        width, height = image.size  # as stored; only the header is read
        turned = orientation_of(image)
    if (height, width) != (picture.height, picture.width):
        raise InputError(
            f"{path} is {height} x {width} (height x width), its annotation says "
            f"{picture.height} x {picture.width}. Replace it with the original."
        )
    return turned


def draw_all(coco: COCO, pictures: list[Picture], crowd: str, num_workers: int, what: str) -> None:
    """Write masks with ``num_workers`` processes, 0 for this one, and show progress as ``what``.

    It raises what :func:`draw_files` does, and an InputError where a process was killed.
    """
    jobs = [pictures[i : i + JOB] for i in range(0, len(pictures), JOB)]
    total = len(pictures)
    if not num_workers:
        for job in progress(jobs, total, what, len):
            draw_files(coco, job, crowd)
        return
    context = get_context("spawn")  # a copy of this process would copy its threads' state too
    ignored = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the process that waits
    with ProcessPoolExecutor(num_workers, context, signal.signal, ignored) as pool:
        futures = [pool.submit(draw_files, coco, job, crowd) for job in jobs]
        try:
            for _ in progress(as_completed(futures), total, what, lambda f: f.result()):
                pass
        except BrokenExecutor as error:
            raise InputError(
                "A process that draws masks was killed, for lack of memory perhaps. The same "
                "command continues; give it fewer processes with --num_workers."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
