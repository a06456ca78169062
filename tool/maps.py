"""Localization maps on disk: ``npy/<id>.npz`` between step 1.2 and those that read it."""

import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tool.errors import InputError
from tool.files import write_atomic

FORMATS = ("npz", "npy")
# What reading a file that was cut off or changed raises, in zip, numpy and pickle.
DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


def maps_path(folder: Path, image_id: str, save_format: str = "npz") -> Path:
    """Return where the maps of a picture lie."""
    return folder / f"{image_id}.{save_format}"


def write_maps(path: Path, maps: dict[str, np.ndarray]) -> None:
    """Write the maps of one picture, atomically.

    Args:
        path: ending ``.npz``; or ``.npy`` for the pickled dict of the published code, which other
            tools expect and we read only when told to.
        maps: keys int64 (P,), ids of background (0) and the present classes, ascending; IS_CAM
            (P, H, W) in [0, 1]; optionally CAM (P - 1, H, W), the plain maps of keys[1:]; and
            size int64 (2,), (H, W) of the picture, where the maps are smaller.
    """
    if path.suffix == ".npy":
        content = np.array(maps, dtype=object)
        write_atomic(path, lambda file: np.save(file, content, allow_pickle=True))
    else:
        write_atomic(path, lambda file: np.savez(file, **maps))


def read_maps(folder: Path, image_id: str, allow_pickle: bool = False) -> dict[str, np.ndarray]:
    """Return what :func:`write_maps` wrote for a picture, at the picture's size.

    Maps that were stored smaller are resized bilinearly (align_corners=False), to float32.

    Args:
        folder: ``<session>/npy``.
        image_id: of the picture.
        allow_pickle: also read a pickled ``.npy``, which executes code of whoever made the file.

    Raises:
        InputError: there are no maps for the picture, or the file is damaged.
    """
    path, pickled = (maps_path(folder, image_id, ending) for ending in FORMATS)
    if not path.is_file():
        if not pickled.is_file():
            raise InputError(f"There are no maps {path}. Run make_cam.py on a list that has them.")
        if not allow_pickle:
            raise InputError(
                f"{pickled} is a pickle, which executes code when read. Pass --allow_pickle if "
                "you made it yourself, or make the maps again as npz."
            )
        path = pickled
    try:
        if path == pickled:
            maps = np.load(path, allow_pickle=True).item()
            maps = {name: np.asarray(value) for name, value in maps.items()}
        else:
            with np.load(path, allow_pickle=False) as file:
                maps = {name: file[name] for name in file.files}
        keys, is_cam = maps["keys"], maps["IS_CAM"]
    except DAMAGE as error:
        raise InputError(f"{path} is damaged ({error}). Delete it and run make_cam.py.") from error
    size = maps.get("size", np.ones(2, np.int64))
    whole = size.shape == (2,) and size.dtype.kind in "iu" and min(size) > 0
    whole = whole and keys.ndim == 1 and keys.dtype.kind in "iu" and is_cam.dtype.kind == "f"
    whole = whole and is_cam.ndim == 3 and len(keys) == len(is_cam) > 0 and keys[0] == 0
    if not whole or ("CAM" in maps and maps["CAM"].shape != (len(keys) - 1, *is_cam.shape[1:])):
        layout = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in maps.items())
        raise InputError(
            f"{path} holds {layout}; maps are keys int (P,) from 0 on, IS_CAM float (P, H, W), "
            "CAM (P - 1, H, W) or none, size int (2,) or none. Delete it and run make_cam.py."
        )
    if "size" in maps:
        size = tuple(maps.pop("size").tolist())
        for name in ("IS_CAM", "CAM"):
            if name in maps and len(maps[name]):
                small = torch.from_numpy(maps[name]).float()[None]
                maps[name] = F.interpolate(small, size, mode="bilinear")[0].numpy()
    return maps


def check_maps_exist(folder: Path, ids: list[str]) -> None:
    """Find pictures without maps, of any format, before hours are spent.

    Raises:
        InputError: some picture has none.
    """
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
    except DAMAGE:
        return None


def check_size(image_id: str, is_cam: np.ndarray, img: np.ndarray) -> None:
    """Raise an InputError where maps (P, H, W) do not belong to a picture (H, W, 3)."""
    if is_cam.shape[1:] != img.shape[:2]:
        raise InputError(
            f"The maps of {image_id} are {is_cam.shape[1:]}, its picture {img.shape[:2]} "
            "(H, W). Make them again: make_cam.py --restart"
        )
