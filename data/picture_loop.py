"""What the programs share that write a file for every picture of a list.

Pictures are read ahead in processes, and files are written in threads while the next pictures are
computed. A program states what is computed of pictures.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch

from data.base import Dataset
from data.coverage import covers_of, remarks
from data.datasets import open_session
from data.loaders import ahead, for_each, one_by_one, plain_picture
from data.transforms import reduce
from tool import cli, distributed
from tool.errors import InputError, naming
from tool.maps import MAKE, maps_file, note_of, read_maps
from tool.pictures import (
    label_drawing,
    overlay,
    read_mask,
    save_label,
    save_rgb,
    stored,
)
from tool.progress import progress
from tool.reader import check_exist
from tool.record import Outputs
from tool.writer import safe_name

LONGEST = 240  # bytes of a name, which leaves room for that of the unfinished file
WRITERS = 2  # threads that write files

log = logging.getLogger(__name__)

Compute = Callable[[list[dict]], Iterable[tuple]]


def mapped_picture(
    dataset: Dataset, npy: Path, allow_pickle: bool, max_pixels: float, image_id: str
) -> dict:
    """Return what :func:`data.loaders.plain_picture` does, with localization maps reduced like it.

    They are ``keys``: int64 (P,) and ``is_cam``: float32 (P, h, w). For the arguments see
    :func:`tool.maps.read_maps`. Maps of another size raise an InputError.
    """
    item = plain_picture(dataset, max_pixels, image_id)
    size = item["picture"].shape[:2]
    maps = read_maps(npy, image_id, allow_pickle, dataset.num_classes, max_pixels)
    if maps["IS_CAM"].shape[1:] != size:
        raise InputError(
            f"The maps of {image_id} are {maps['IS_CAM'].shape[1:]}, its picture {size} (H, W). "
            "Make them again: make_cam.py --restart"
        )
    return {**item, "keys": maps["keys"], "is_cam": maps["IS_CAM"]}


class PictureStep:
    """A program that writes a file for every picture of a list.

    Args:
        args: its settings, with ``infer_list``, ``max_pixels``, ``restart`` and ``visualize``.
        program: its name.
        usual_list: name of the dataset's attribute that names the list where no flag does.
    """

    def __init__(self, args: cli.Settings, program: str, usual_list: str = "train_list") -> None:
        self.args, self.program = args, program
        self.session, self.device, self.dataset = open_session(args, program)
        infer_list = args.infer_list or getattr(self.dataset, usual_list)
        self.ids = self.dataset.picture_ids(infer_list)

    def write(
        self,
        folder: Path,
        item_of: Callable[[str], dict],
        compute: Compute,
        settings: dict,
        save: Callable[..., None] = save_label,
        ending: str = ".png",
        batch_size: int = 1,
        **sources: list[Path] | list[str],
    ) -> None:
        """Write the files of all pictures that are not done, and drawings if asked.

        Args:
            folder: of the files.
            item_of: returns of an id ``id``, ``path`` and ``size`` (H, W) of the picture as it is
                stored, and what ``compute`` needs; it must be picklable.
            compute: takes items of one size, and returns the arguments of ``save`` for each.
            settings: what decides the result beside the flags.
            save: takes the path of a file, and what ``compute`` returned for it.
            ending: of the files.
            batch_size: items that are computed at once, at most.
            sources: what else the files are made from, see :class:`tool.record.Outputs`.
        """
        args = self.args
        outputs = self._outputs(folder, cli.deciding(args) | settings, ending, **sources)
        todo = outputs.open(args.restart, self.device)
        self.session.accept()
        if batch_size > 1:
            todo.sort(key=lambda image_id: stored(self.dataset.image_path(image_id)).size)
        loader = iter(one_by_one(item_of, todo, args.num_workers))
        batches = ahead(batches_of(loader, batch_size), self.device)
        reduced, written = 0, iter(())
        with torch.inference_mode(), ThreadPoolExecutor(WRITERS) as writers:
            for batch in progress(batches, len(todo), self.program, len):
                with naming(batch[0]["path"]):  # the first picture of what goes wrong
                    results = compute(batch)
                list(written)  # waits for the files of the batch before, and raises their errors
                paths = [outputs.path_of(item["id"]) for item in batch]
                written = writers.map(lambda path, result: save(path, *result), paths, results)
                reduced += sum(math.prod(item["size"]) > args.max_pixels for item in batch)
            list(written)
        if reduced:
            log.info(
                "%d pictures of more than %d pixels were reduced first", reduced, args.max_pixels
            )
        outputs.finish()
        if distributed.is_main():
            for remark in remarks(covers_of(self.dataset, folder, self.ids, ending)):
                log.warning("%s", remark)
        if args.visualize:
            self._draw(outputs)

    def write_labels(
        self, folder: Path, label_of: Callable[..., np.ndarray], digest: str | None = None
    ) -> None:
        """Write labels that are made of the maps, see :meth:`write`.

        Args:
            folder: of the labels.
            label_of: returns the label, (h, w), of what :func:`mapped_picture` returns:
                ``picture``, ``is_cam`` and ``keys``. The CRF takes ``t``, ``gt_prob`` and
                ``device`` besides, see :func:`tool.crf.crf_inference_label`.
            digest: of the checkpoint of its network; None is the CRF, which has none.

        Raises:
            InputError: maps are missing, are pickles that ``--allow_pickle`` does not admit, or are
                not of the session's checkpoint.
        """
        args, npy = self.args, self.session.path / "npy"
        maps = [maps_file(npy, image_id, args.allow_pickle) for image_id in self.ids]
        check_exist(maps, "maps", MAKE)
        wanted = {name: getattr(args, name, None) for name in ("ckpt", "network")}
        settings = {"maps": note_of(self.session.path, self.dataset.all_names, **wanted)}
        item_of = partial(mapped_picture, self.dataset, npy, args.allow_pickle, args.max_pixels)
        if digest is None:
            label_of = partial(
                label_of, t=args.crf_iterations, gt_prob=args.gt_prob, device=self.device
            )
        else:
            settings["digest"] = digest
        compute = partial(_labels, label_of)
        if digest is None and self.device.type == "cpu":
            # Processes compute the CRF, one a core; a GPU has work from this one alone.
            item_of = partial(_computed, item_of, compute)
            compute = partial(map, itemgetter("result"))
        self.write(folder, item_of, compute, settings, maps=maps)

    def _outputs(self, folder: Path, settings: dict, ending: str, **sources) -> Outputs:
        dataset = self.dataset
        settings = settings | dataset.reading
        sources = {"picture": [dataset.image_path(image_id) for image_id in self.ids], **sources}
        return Outputs(
            self.session.path,
            folder,
            self.program,
            settings,
            dataset.all_names,
            self.ids,
            ending,
            sources,
        )

    def _draw(self, outputs: Outputs) -> None:
        """Draw what is missing in <session>/visual or visual_<folder>, or of other content."""
        folder, ending, draw = self.session.path / "visual", "_background.png", draw_map
        if outputs.ending == ".png":
            folder = folder.with_name(f"visual_{outputs.folder.name}")
            ending, draw = ".png", draw_label
        drawings = self._outputs(folder, {}, ending, file=[outputs.path_of(i) for i in self.ids])
        draw = partial(draw, self.dataset, outputs.folder, folder, self.args.max_pixels)
        for_each(drawings.open(self.args.restart), draw, self.args.num_workers, "drawings")
        drawings.finish()


def draw_map(dataset: Dataset, npy: Path, folder: Path, max_pixels: float, image_id: str) -> None:
    """Write one heat map over the picture for each of its maps; that of background is the last.

    Larger pictures are drawn reduced to ``max_pixels``.
    """
    maps = read_maps(npy, image_id, max_pixels=max_pixels)
    picture = np.array(reduce(dataset.read(image_id), max_pixels))
    for key, one in reversed(list(zip(maps["keys"], maps["IS_CAM"], strict=True))):
        room = LONGEST - len(os.fsencode(image_id)) - len("_.png")
        name = safe_name(dataset.all_names[key], room)
        save_rgb(folder / f"{image_id}_{name}.png", overlay(picture, one))


def draw_label(dataset: Dataset, labels: Path, folder: Path, _: float, image_id: str) -> None:
    """Write the label of a picture over it, with the names of its classes."""
    label, picture = read_mask(labels / f"{image_id}.png"), np.array(dataset.read(image_id))
    save_rgb(folder / f"{image_id}.png", label_drawing(picture, label, dataset.all_names))


def _labels(label_of: Callable[..., np.ndarray], items: list[dict]) -> list[tuple]:
    """Return label, and the size of its picture, of one item of :func:`mapped_picture`."""
    (item,) = items
    return [(label_of(item["picture"], item["is_cam"], item["keys"]), item["size"])]


def _computed(item_of: Callable[[str], dict], compute: Compute, image_id: str) -> dict:
    """Return what is computed of a picture, in the process of a loader."""
    item = item_of(image_id)
    with naming(item["path"]):
        (result,) = compute([item])
    return {**item, "picture": None, "is_cam": None, "result": result}


def batches_of(items: Iterable[dict], most: int) -> Iterator[list[dict]]:
    """Yield runs of at most ``most`` items whose pictures have the same size."""
    for _, run in groupby(items, key=lambda item: item["size"]):
        while batch := list(islice(run, most)):
            yield batch
