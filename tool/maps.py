"""Localization maps on disk: ``npy/<id>.npz`` between step 1.2 and those that read it."""

import zipfile
from pathlib import Path

import numpy as np

from tool.errors import InputError
from tool.files import write_atomic

FORMATS = ("npz", "npy")


def maps_path(folder: Path, image_id: str, save_format: str = "npz") -> Path:
    """Return where the maps of a picture lie."""
    return folder / f"{image_id}.{save_format}"


def write_maps(path: Path, maps: dict[str, np.ndarray]) -> None:
    """Write the maps of one picture, atomically.

    Args:
        path: ending ``.npz``; or ``.npy`` for the pickled dict of the published code, which other
            tools expect and we read only when told to.
        maps: keys int64 (P,), ids of background (0) and the present classes, ascending; IS_CAM
            (P, H, W) in [0, 1]; optionally CAM (P - 1, H, W), the plain maps of keys[1:].
    """
    if path.suffix == ".npy":
        content = np.array(maps, dtype=object)
        write_atomic(path, lambda file: np.save(file, content, allow_pickle=True))
    else:
        write_atomic(path, lambda file: np.savez(file, **maps))


def read_maps(folder: Path, image_id: str, allow_pickle: bool = False) -> dict[str, np.ndarray]:
    """Return what :func:`write_maps` wrote for a picture.

    Args:
        folder: ``<session>/npy``.
        image_id: of the picture.
        allow_pickle: also read a pickled ``.npy``, which executes code of whoever made the file.

    Raises:
        InputError: there are no maps for the picture, or the file is damaged.
    """
    path = maps_path(folder, image_id)
    pickled = maps_path(folder, image_id, "npy")
    try:
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                maps = {name: file[name] for name in file.files}
        elif pickled.is_file():
            if not allow_pickle:
                raise InputError(
                    f"{pickled} is a pickle, which executes code when read. Pass --allow_pickle if "
                    "you made it yourself, or make the maps again as npz."
                )
            maps = np.load(pickled, allow_pickle=True).item()
        else:
            raise InputError(f"There are no maps {path}. Run make_cam.py on a list that has them.")
        keys, is_cam = maps["keys"], maps["IS_CAM"]
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it and run make_cam.py.") from error
    if is_cam.ndim != 3 or len(keys) != len(is_cam) or keys[0] != 0:
        raise InputError(f"{path} holds {len(keys)} keys for maps of shape {is_cam.shape}.")
    return maps
