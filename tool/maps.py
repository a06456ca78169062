"""Localization maps on disk: ``npy/<id>.npz`` between step 1.2 and those that read it.

Letters in shapes: P classes of a picture with background, S scales, h x w the maps of a scale,
H x W the picture.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tool.errors import InputError
from tool.pictures import reduced_size
from tool.reader import Damaged, check, decoding, read_arrays, regular
from tool.record import digests_of, settings_of
from tool.session import find_checkpoint
from tool.writer import write_atomic

FORMATS = ("npz", "npy")
# Kinds of NumPy's dtypes that arrays may have.
KINDS = {"keys": "iu", "IS_CAM": "f", "CAM": "f", "shapes": "iu", "size": "iu"}
FUSE_EPS = 1e-5  # added to maxima before dividing
NUM_CLASSES = 255  # at the most: labels are 8-bit pictures, in which 255 says unsure
SLACK = 1e-3  # by which rounded maps may leave [0, 1]
LARGEST = 1e30  # of maps before they are divided by their maximum
LARGEST_MAPS = 1 << 30  # numbers in maps that are resized
AGAIN = "Delete it and run make_cam.py."
MAKE = "Run make_cam.py on a list that has them"


def fuse(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return maps that are fused over scales, (M, H, W) in [0, 1], of ``size`` (H, W).

    Each scale's maps, (M, h, w) of at least 0, are resized bilinearly (align_corners=False) and
    summed; every map is divided by (its maximum + 1e-5).
    """
    rows = [F.interpolate(m[None], (m.shape[1], size[1]), mode="bilinear")[0] for m in maps]
    identities = [torch.eye(m.shape[1], dtype=m.dtype, device=m.device)[None, None] for m in maps]
    weights = [F.interpolate(one, (size[0], len(one[0, 0])), mode="bilinear") for one in identities]
    # One product resizes the rows of all scales in height, and sums over scales.
    total = torch.cat(weights, 3)[0] @ torch.cat(rows, 1)  # (1, H, sum of h) @ (M, sum of h, W)
    return total.div_(total.amax((1, 2), keepdim=True) + FUSE_EPS)


def write_maps(
    path: Path,
    keys: np.ndarray,
    maps: Sequence[Tensor],
    size: tuple[int, int],
    with_cam: bool = False,
) -> None:
    """Write the maps of one picture, atomically.

    Args:
        path: ending ``.npz``; or ``.npy`` for the pickled dict of the published code, with fused
            maps of the picture's size, which other tools expect.
        keys: int64 (P,), ids of background (0) and the present classes, ascending.
        maps: of every scale (2P - 1, h, w): IS-CAM of the P classes, and plain CAM of those without
            background, which may be absent where they are not written.
        size: (H, W) of the picture.
        with_cam: write plain CAM too.
    """
    of_scales = path.suffix == ".npz"
    both = torch.cat([one.flatten(1) for one in maps], 1) if of_scales else fuse(maps, size)
    both = both.cpu().numpy()
    content = {"keys": keys, "IS_CAM": both[: len(keys)]}
    if with_cam:
        content["CAM"] = both[len(keys) :]
    if of_scales:
        content["shapes"] = np.array([one.shape[1:] for one in maps])
        content["size"] = np.array(size)
        write_atomic(path, lambda file: np.savez(file, **content))
    else:
        write_atomic(path, lambda file: np.save(file, content))


def note_of(
    session: Path, class_names: Sequence[str], ckpt: str | None = None, network: str | None = None
) -> dict[str, Any]:
    """Return what make_cam.py noted beside the maps of a session; nothing where there is no note.

    Args:
        session: folder of the run.
        class_names: that they must have, background first.
        ckpt: that they must be of, see :func:`tool.session.find_checkpoint`; None is the one that
            is noted.
        network: that they must be of; None is any.

    Raises:
        InputError: they are of other classes, another network, or another checkpoint.
    """
    folder = session / "npy"
    note = settings_of(folder, class_names)
    if network and note.get("network", network) != network:
        raise InputError(f"The maps in {folder} are of --network {note['network']}. Name that one.")
    ckpt = find_checkpoint(session, ckpt) if ckpt else session / "ckpt" / (note.get("ckpt") or "")
    if note and ckpt.is_file() and digests_of(session, [ckpt]) != [note.get("digest")]:
        raise InputError(
            f"The maps in {folder} were made with another {ckpt}. Make them again: "
            "make_cam.py --restart"
        )
    return note


def maps_file(folder: Path, image_id: str, allow_pickle: bool = False) -> Path:
    """Return where the maps of a picture lie, or should lie.

    Raises:
        InputError: there is a pickle, and ``allow_pickle`` does not admit it.
    """
    path, pickled = (folder / f"{image_id}.{ending}" for ending in FORMATS)
    if path.exists() or not pickled.exists():
        return path
    if not allow_pickle:
        raise InputError(
            f"{pickled} is a pickle, which executes code when read. Pass --allow_pickle if you "
            "made it yourself, or make the maps again as npz."
        )
    return pickled


def read_maps(
    folder: Path,
    image_id: str,
    allow_pickle: bool = False,
    num_classes: int = NUM_CLASSES,
    max_pixels: float = math.inf,
) -> dict[str, np.ndarray]:
    """Return the fused maps of a picture: keys, IS_CAM (P, H, W) and, if stored, CAM (P - 1, H, W).

    They have the size of the picture. Maps of scales go through :func:`fuse` to float32.

    Args:
        folder: ``<session>/npy``.
        image_id: of the picture.
        allow_pickle: also read a pickled ``.npy``, which executes code of whoever made the file.
        num_classes: with background; keys must be below it.
        max_pixels: of a larger picture, the maps have the size of :func:`reduced_size`.

    Raises:
        InputError: there are no maps, the file is damaged, or its values cannot be maps of these
            classes.
    """
    path = maps_file(folder, image_id, allow_pickle)
    regular(path, f"There are no maps {path}. {MAKE}.")
    with decoding(path, AGAIN):
        is_npz = path.suffix == ".npz"
        stored = read_arrays(path, AGAIN, KINDS) if is_npz else _read_pickled(path)
        for name, array in stored.items():
            if array.dtype.kind not in KINDS[name]:
                raise Damaged(f"its {name} has the dtype {array.dtype}")
        keys = stored["keys"].ravel().astype(np.int64)
        if not len(keys) or keys[0] != 0 or (np.diff(keys) < 1).any() or keys[-1] >= num_classes:
            raise Damaged(
                f"it has maps of the classes {', '.join(map(str, keys[:10]))}, which do not begin "
                f"with 0, ascend and stay below {num_classes}"
            )
        kinds = [name for name in ("IS_CAM", "CAM") if name in stored]
        counts = [stored[name].shape[0] for name in kinds]
        if counts not in ([len(keys)], [len(keys), len(keys) - 1]):
            raise Damaged(f"it has {counts} maps of {len(keys)} classes")
        maps = torch.from_numpy(np.concatenate([stored[name] for name in kinds])).float()
        if not ((maps >= -SLACK) & (maps <= LARGEST)).all():
            raise Damaged(f"it has NaN or values outside [0, {LARGEST:g}]")
        if is_npz:
            shapes, size = stored["shapes"].reshape(-1, 2), stored["size"].reshape(2)
            large = _fused(maps, shapes.tolist(), size.tolist(), max_pixels)
        else:
            size = reduced_size(maps.shape[1:], max_pixels)
            large = F.interpolate(maps[None], size, mode="bilinear")[0]
    parts = np.split(large.numpy(), [len(keys)])  # the second one is empty without CAM
    return {"keys": keys, **dict(zip(kinds, parts, strict=False))}


def _fused(maps: Tensor, shapes: list[list[int]], size: list[int], max_pixels: float) -> Tensor:
    """Return the fused maps (M, H, W) of maps of all scales side by side, (M, n)."""
    if math.prod(size) * len(maps) > LARGEST_MAPS:
        raise Damaged(f"its size is {size}")
    sides = maps.split([math.prod(shape) for shape in shapes], 1)
    scales = [side.unflatten(1, shape) for side, shape in zip(sides, shapes, strict=True)]
    return fuse(scales, reduced_size(size, max_pixels))


def _read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Read an npy file of one pickled dict, whose author is trusted."""
    with open(path, "rb") as file:
        content = np.lib.format.read_array(file, allow_pickle=True).item()
    check(content, dict)
    return {name: np.asarray(content[name]) for name in KINDS if name in content}
