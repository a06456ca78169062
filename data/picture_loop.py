"""The loop of the programs that write a file for every picture.

Pictures are read ahead in processes, and files are written behind in threads, so that what computes
never waits for the disk. A program states what is computed of a picture.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset, check_exist
from data.loaders import one_by_one
from data.reading import reading_of
from data.transforms import reduce
from tool.behind import Behind
from tool.errors import InputError, naming
from tool.maps import MAKE, maps_file, note_of, read_maps
from tool.memory import LOWER_PIXELS, enough_memory
from tool.progress import progress, tell_reduced
from tool.record import Outputs

WAITING = 8  # batches whose files are being written while the next ones are computed

Compute = Callable[[list[dict]], list[tuple]]


def outputs_of(
    session: Path,
    folder: Path,
    program: str,
    settings: dict[str, Any],
    dataset: Dataset,
    ids: list[str],
    ending: str = ".png",
    **sources: list[Path] | list[str],
) -> Outputs:
    """Return the files that a program makes of a dataset's pictures and of other ``sources``."""
    pictures = [dataset.image_path(image_id) for image_id in ids]
    settings = {**settings, **reading_of(dataset)}
    sources = {"picture": pictures, **sources}
    return Outputs(session, folder, program, settings, dataset.all_names, ids, ending, sources)


def made_from(
    session: Path, dataset: Dataset, ids: list[str], allow_pickle: bool
) -> tuple[dict[str, Any], list[Path]]:
    """Return what is noted of a session's maps, and the files of some pictures.

    Raises:
        InputError: maps are missing, are pickles that ``allow_pickle`` does not admit, or are not
            of the session's checkpoint.
    """
    maps = [maps_file(session / "npy", image_id, allow_pickle) for image_id in ids]
    check_exist(maps, "maps", MAKE)
    return note_of(session, dataset.all_names), maps


@dataclass
class MappedPictures(TorchDataset):
    """Pictures with their localization maps.

    Args:
        dataset: where pictures come from.
        ids: the pictures.
        npy: folder of the maps.
        allow_pickle: see :func:`tool.maps.read_maps`.
        max_pixels: larger pictures, and their maps, are reduced to that many pixels first.
        view: what is handed over of the maps, float32 (P, h, w), in their place.
    """

    dataset: Dataset
    ids: list[str]
    npy: Path
    allow_pickle: bool
    max_pixels: float
    view: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id, path and size (H, W) of the picture; and of the picture, reduced,

        ``picture``: uint8 (h, w, 3), ``keys``: int64 (P,), ``view``: of IS-CAM.
        """
        image_id = self.ids[index]
        image = self.dataset.read(image_id)
        picture = np.array(reduce(image, self.max_pixels))
        maps = read_maps(
            self.npy, image_id, self.allow_pickle, self.dataset.num_classes, self.max_pixels
        )
        if maps["IS_CAM"].shape[1:] != picture.shape[:2]:
            raise InputError(
                f"The maps of {image_id} are {maps['IS_CAM'].shape[1:]}, its picture "
                f"{picture.shape[:2]} (H, W). Make them again: make_cam.py --restart"
            )
        return {
            "id": image_id,
            "path": self.dataset.image_path(image_id),
            "size": (image.height, image.width),
            "picture": picture,
            "keys": maps["keys"],
            "view": self.view(maps["IS_CAM"]),
        }


@dataclass
class _Computed(TorchDataset):
    """What is computed of single pictures, in the processes of a loader."""

    pictures: TorchDataset
    compute: Compute

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        item = self.pictures[index]
        (result,) = self.compute([item])
        return {"id": item["id"], "size": item["size"], "result": result}


def write_every(
    outputs: Outputs,
    pictures: TorchDataset,
    compute: Compute,
    write: Callable[..., None],
    num_workers: int,
    max_pixels: float,
    batch_size: int | None = None,
    in_processes: bool = False,
    remedy: str = LOWER_PIXELS,
) -> None:
    """Write the files of pictures.

    Args:
        outputs: says where a file lies.
        pictures: of what is left to do; an item has ``id``, ``path`` and ``size`` (H, W) of the
            picture as it is stored, and what ``compute`` needs.
        compute: takes an item, and returns the arguments of ``write``; with a ``batch_size``, it
            takes items of one size, and returns those of each.
        write: takes the path, and what ``compute`` returned for it.
        num_workers: processes of the loader.
        max_pixels: larger pictures are counted as reduced.
        batch_size: items that are computed at once, at most; None is one.
        in_processes: compute single items in the processes of the loader; ``compute`` must be
            picklable then.
        remedy: a sentence on what to do where the memory does not suffice.
    """
    reduced, most = 0, batch_size or 1
    compute = partial(_named, compute if batch_size else partial(_single, compute), remedy)
    loader = one_by_one(_Computed(pictures, compute) if in_processes else pictures, num_workers)
    batches = batches_of(loader, most)
    with torch.inference_mode(), Behind(WAITING * most) as files:
        for items in progress(batches, len(pictures), outputs.program, len):
            results = [item["result"] for item in items] if in_processes else compute(items)
            for item, result in zip(items, results, strict=True):
                files.call(write, outputs.path_of(item["id"]), *result)
                reduced += item["size"][0] * item["size"][1] > max_pixels
    tell_reduced(reduced, max_pixels)


def _single(compute: Callable[[dict], tuple], items: list[dict]) -> list[tuple]:
    return [compute(item) for item in items]


def _named(compute: Compute, remedy: str, items: list[dict]) -> list[tuple]:
    """Compute, and name the pictures in what goes wrong."""
    names = ", ".join(item["id"] for item in items)
    with enough_memory(names, remedy), naming(items[0]["path"]):
        return compute(items)


def batches_of(items: Iterable[dict], most: int) -> Iterator[list[dict]]:
    """Yield runs of at most ``most`` items whose pictures have the same size."""
    batch: list[dict] = []
    for item in items:
        if batch and (len(batch) == most or item["size"] != batch[0]["size"]):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
