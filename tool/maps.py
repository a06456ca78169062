"""Localization maps on disk: ``npy/<id>.npz`` between step 1.2 and those that read it.

Letters in shapes: P classes of a picture with background, S scales, h x w the maps of a scale,
H x W the picture.
"""

import math
import pickletools
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tool.errors import InputError, reason_of
from tool.files import check_readable, write_atomic
from tool.pictures import reduced_size

FORMATS = ("npz", "npy")
LAYOUTS = ("scales", "full")
ARRAYS = ("keys", "IS_CAM", "CAM", "shapes", "size")
FUSE_EPS = 1e-5  # added to maxima before dividing
NUM_CLASSES = 255  # at the most: labels are 8-bit pictures, in which 255 says unsure
SLACK = 1e-3  # by which rounded maps may leave [0, 1]
LARGEST_VALUE = 1e30  # of maps before they are divided by their maximum
LARGEST_FILE = 1 << 30  # bytes of compressed arrays once they are unpacked
SMALLEST_SCALE = 256  # how many times smaller than the picture stored maps may be
LARGEST_MAPS = 1 << 30  # numbers in maps that are resized


def maps_path(folder: Path, image_id: str, save_format: str = "npz") -> Path:
    """Return where the maps of a picture lie."""
    return folder / f"{image_id}.{save_format}"


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


def pack(maps: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of all scales, (M, h, w) each, side by side, and their shapes.

    They are float32 (M, n), n the sum of all h * w, and int64 (S, 2), h and w of each scale.
    """
    flat = torch.cat([scale.flatten(1) for scale in maps], 1).float().cpu().numpy()
    return flat, np.array([scale.shape[1:] for scale in maps])


def write_maps(path: Path, maps: dict[str, np.ndarray]) -> None:
    """Write the maps of one picture, atomically.

    Args:
        path: ending ``.npz``; or ``.npy`` for the pickled dict of the published code, which other
            tools expect and we read only when told to.
        maps: keys int64 (P,), ids of background (0) and the present classes, ascending; IS_CAM and
            optionally CAM, the plain maps of keys[1:]. They are either fused: IS_CAM (P, H, W) and
            CAM (P - 1, H, W) in [0, 1], with size int64 (2,), (H, W) of the picture, where they are
            smaller; or those of all scales: IS_CAM (P, n), CAM (P - 1, n), shapes int64 (S, 2), see
            :func:`pack`, and size.
    """
    if path.suffix == ".npy":
        content = np.array(maps, dtype=object)
        write_atomic(path, lambda file: np.save(file, content, allow_pickle=True))
    else:
        write_atomic(path, lambda file: np.savez(file, **maps))


def read_maps(
    folder: Path,
    image_id: str,
    allow_pickle: bool = False,
    num_classes: int | None = None,
    max_pixels: float = math.inf,
) -> dict[str, np.ndarray]:
    """Return the fused maps of a picture: keys, IS_CAM (P, H, W) and, if stored, CAM (P - 1, H, W).

    They have the size of the picture. Maps of scales go through :func:`fuse`, and fused ones that
    were stored smaller are resized bilinearly (align_corners=False), both to float32. An InputError
    says that there are no maps, that the file is damaged, or that its values cannot be maps of
    these classes.

    Args:
        folder: ``<session>/npy``.
        image_id: of the picture.
        allow_pickle: also read a pickled ``.npy``, which executes code of whoever made the file.
        num_classes: with background; keys must be below it. None is what a label can hold, 255.
        max_pixels: of a larger picture, the maps have the size of :func:`reduced_size`.
    """
    path, pickled = (maps_path(folder, image_id, ending) for ending in FORMATS)
    missing = f"There are no maps {path}. Run make_cam.py on a list that has them."
    if not path.is_file() and pickled.is_file():
        if not allow_pickle:
            raise InputError(
                f"{pickled} is a pickle, which executes code when read. Pass --allow_pickle if "
                "you made it yourself, or make the maps again as npz."
            )
        path = pickled
    again = "Delete it and run make_cam.py."
    check_readable(path, missing)
    try:
        maps = _read_pickled(path) if path == pickled else _read_arrays(path)
        if {"cam", "high_res"} & set(maps):
            raise InputError(
                f"{path} holds {', '.join(maps)}, as the files of IRN do. Maps here are keys from "
                "background (0) on, and IS_CAM: make them with make_cam.py."
            )
        keys, _ = maps["keys"], maps["IS_CAM"]  # a KeyError names what is missing
    except InputError:
        raise
    except Exception as error:  # damaged bytes can raise anything in zip, numpy and pickle
        raise InputError(f"{path} is damaged ({reason_of(error)}). {again}") from error
    maps = {name: maps[name] for name in ARRAYS if name in maps}
    if not _is_whole(maps):
        layout = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in maps.items())
        raise InputError(
            f"{path} holds {layout}; maps are keys int (P,) from 0 on, IS_CAM float (P, H, W), "
            "CAM (P - 1, H, W) or none, size int (2,) or none; or IS_CAM (P, n), CAM (P - 1, n) or "
            f"none, shapes int (S, 2), size. {again}"
        )
    maps["keys"] = keys = keys.astype(np.int64)
    limit = num_classes or NUM_CLASSES
    if keys[0] != 0 or (np.diff(keys) < 1).any() or keys[-1] >= limit:
        raise InputError(
            f"{path} has maps of the classes {', '.join(map(str, keys[:10]))}; they begin with "
            f"0, ascend, and are below {limit}. Check --dataset and --session_name, or delete it "
            "and run make_cam.py."
        )
    shapes, size = maps.pop("shapes", None), maps.pop("size", None)
    most = 1 if shapes is None else LARGEST_VALUE
    names = [name for name in maps if name != "keys"]
    for name in names:
        if not ((maps[name] >= -SLACK) & (maps[name] <= most + SLACK)).all():
            raise InputError(f"{path}: {name} has NaN or values outside [0, {most:g}]. {again}")
    stored = maps["IS_CAM"].shape[1:]
    wanted = reduced_size(stored if size is None else size.tolist(), max_pixels)
    if size is not None or wanted != stored:
        small = torch.from_numpy(np.concatenate([maps[name] for name in names])).float()
        if shapes is None:
            large = F.interpolate(small[None], wanted, mode="bilinear")[0]
        else:
            scales = small.split(shapes.prod(1).tolist(), 1)
            pairs = zip(scales, shapes.tolist(), strict=True)
            large = fuse([scale.unflatten(1, shape) for scale, shape in pairs], wanted)
        for name, part in zip(names, large.split([len(maps[name]) for name in names]), strict=True):
            maps[name] = part.numpy()
    return maps


def check_maps_exist(folder: Path, ids: list[str]) -> None:
    """Raise an InputError for pictures without maps, of any format, before hours are spent."""
    there = {path.stem for path in folder.glob("*") if path.suffix[1:] in FORMATS}
    missing = [image_id for image_id in ids if image_id not in there]
    if missing:
        raise InputError(
            f"There are no maps {maps_path(folder, missing[0])}, and of {len(missing)} of the "
            f"{len(ids)} pictures in all. Run make_cam.py on a list that has them."
        )


def read_keys(path: Path) -> list[int] | None:
    """Return the class ids of the maps in an ``npz`` file without reading the maps.

    None where the file is something else or damaged; :func:`read_maps` says what is wrong.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["keys"].tolist()
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Read an npy file of one pickled dict, whose author is trusted but whose bytes are not."""
    with open(path, "rb") as file:
        shape, dtype = _announced(file)
        if shape or not dtype.hasobject:
            raise ValueError(f"it holds {dtype} {shape} and no dict")
        for code, number, _ in pickletools.genops(file):
            # A pickle numbers its parts; a large number makes a table that long.
            if "PUT" in code.name and number > path.stat().st_size:
                raise ValueError(f"it announces {number} parts")
    maps = np.load(path, allow_pickle=True).item()
    return {str(name): np.asarray(value) for name, value in maps.items()}


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an npz file, having compared what it announces with what it holds."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(m.file_size for m in members) > max(LARGEST_FILE, path.stat().st_size):
            raise ValueError("it announces more than it can hold")
        for member in members:
            with archive.open(member) as file:
                shape, dtype = _announced(file)
                announced = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and announced + file.tell() != member.file_size:
                    raise ValueError(f"{member.filename} announces the shape {shape}")
                file.seek(0)
                name = member.filename.removesuffix(".npy")
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _announced(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of an npy file: the shape and dtype of what follows."""
    version, _ = np.lib.format.read_magic(file)
    shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version}_0")(file)
    return shape, dtype


def _is_whole(maps: dict[str, np.ndarray]) -> bool:
    """Return whether the arrays have the shapes and dtypes of maps."""
    keys, is_cam, cam, shapes = (maps.get(name) for name in ARRAYS[:4])
    size = maps.get("size", np.ones(2, np.int64) if shapes is None else np.zeros(0))
    floats = [value.dtype for value in (is_cam, cam) if value is not None]
    return (
        keys.ndim == 1
        and keys.dtype.kind in "iu"
        and is_cam.size > 0
        and len(keys) == len(is_cam)
        and (cam is None or cam.shape == (len(keys) - 1, *is_cam.shape[1:]))
        and all(dtype in (np.float16, np.float32, np.float64) for dtype in floats)
        and size.shape == (2,)
        and size.dtype.kind in "iu"
        and size.min() > 0
        and math.prod(size.tolist()) * len(keys) <= LARGEST_MAPS
        and (_is_fused(is_cam, size) if shapes is None else _is_packed(is_cam, shapes, size))
    )


def _is_fused(is_cam: np.ndarray, size: np.ndarray) -> bool:
    """Tell whether maps are (P, H, W), and not too small for the picture."""
    return is_cam.ndim == 3 and all(size.tolist() <= np.multiply(is_cam.shape[1:], SMALLEST_SCALE))


def _is_packed(is_cam: np.ndarray, shapes: np.ndarray, size: np.ndarray) -> bool:
    """Tell whether maps (P, n) are those of scales of such shapes, which take little to fuse."""
    if shapes.ndim != 2 or shapes.shape[1] != 2 or shapes.dtype.kind not in "iu":
        return False
    longest = int(shapes.max(initial=1))
    return (
        is_cam.ndim == 2
        and shapes.min(initial=1) > 0
        and sum(math.prod(shape) for shape in shapes.tolist()) == is_cam.shape[1]
        and len(is_cam) * len(shapes) * longest * max(longest, *size.tolist()) <= LARGEST_MAPS
    )


def check_size(image_id: str, is_cam: np.ndarray, img: np.ndarray) -> None:
    """Raise an InputError where maps (P, H, W) do not belong to a picture (H, W, 3)."""
    if is_cam.shape[1:] != img.shape[:2]:
        raise InputError(
            f"The maps of {image_id} are {is_cam.shape[1:]}, its picture {img.shape[:2]} "
            "(H, W). Make them again: make_cam.py --restart"
        )
