"""Loaders: for training classifier, IRN and segmentation, and for inference at several scales."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.transforms import WINDOWS, random_pair, random_scale, random_view, reduce, rescale
from tool.indexing import STRIDE
from tool.memory import enough_memory
from tool.pictures import check_label, read_mask
from tool.progress import progress


class RandomViews(TorchDataset):
    """Random views of the pictures of a list.

    An item is asked for by (epoch, index), and its augmentation is a function of (seed, epoch,
    index) alone: workers, processes and restarts do not change it.

    Args:
        dataset: where pictures and labels come from.
        ids: the list to learn from.
        size: side S of the training window in pixels.
        seed: of all chance.
        folder: of label PNGs, 255 unsure, where every pixel has a label.
    """

    makers: str  # the programs that make the labels of ``folder``
    labels: np.ndarray | None = None  # image-level ones, uint8 (n, K), where they are learnt from

    def __init__(
        self, dataset: Dataset, ids: list[str], size: int, seed: int, folder: Path | None = None
    ) -> None:
        self.dataset, self.ids, self.size, self.seed, self.folder = dataset, ids, size, seed, folder

    @property
    def label_files(self) -> list[Path]:
        """The files of the labels in ``folder``, if there is one."""
        return [self.folder / f"{image_id}.png" for image_id in self.ids] if self.folder else []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key
        return self.view(index, np.random.default_rng([self.seed, epoch, index]))

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return an item, whose only source of chance is ``rng``."""
        raise NotImplementedError

    def read_pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Return a picture and its label, uint8 (H, W).

        A file that is missing or broken, or a label of another size or of other classes, raises an
        InputError.
        """
        image, path = self.dataset.read(self.ids[index]), self.folder / f"{self.ids[index]}.png"
        label = read_mask(path)
        check_label(path, label, self.dataset.num_classes, image.size)
        return image, label


class ClassificationPictures(RandomViews):
    """Random views of pictures with their image-level labels.

    The long side of the resized picture has from ``smallest`` to ``largest`` pixels; for the other
    arguments see :class:`RandomViews`.
    """

    def __init__(
        self, dataset: Dataset, ids: list[str], size: int, smallest: int, largest: int, seed: int
    ) -> None:
        super().__init__(dataset, ids, size, seed)
        self.labels = dataset.labels(ids)  # (n, K)
        self.smallest, self.largest = smallest, largest

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (K,)."""
        image = self.dataset.read(self.ids[index])
        window, box = random_view(image, rng, self.smallest, self.largest, self.size)
        return {"window": window, "box": box, "label": self.labels[index]}


class AffinityPictures(RandomViews):
    """Random views of pictures with their confident areas, for IRN; see :class:`RandomViews`."""

    makers = "make_cam.py and cam2ir.py"
    scales = (0.5, 1.5)

    def __init__(self, dataset: Dataset, ids: list[str], labels: Path, size: int, seed: int):
        super().__init__(dataset, ids, size, seed, labels)

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (S / 4, S / 4)."""
        image, label = self.read_pair(index)
        scale = random_scale(rng, self.scales, "uniform")
        window, box, label = random_pair(image, label, rng, scale, self.size)
        small = -(-self.size // STRIDE)
        label = Image.fromarray(label).resize((small, small), Image.Resampling.NEAREST)
        return {"window": window, "box": box, "label": np.array(label)}


class SegmentationPictures(RandomViews):
    """Random views of pictures with the label of every pixel, for step 3.

    Args:
        dataset, ids, size, seed: see :class:`RandomViews`.
        labels: folder of label PNGs, 0..C-1, 255 unsure.
        model: whose recipe samples the pictures, a key of ``data.transforms.WINDOWS``.
        scales, scale_draw: factors of both sides, see :func:`data.transforms.random_scale`.
        resample: filter of the picture, one of ``data.transforms.RESAMPLE``.
        hsv_shift: hue, saturation and value each move by an integer drawn from -hsv_shift to
            hsv_shift, in OpenCV's units, see :func:`data.transforms.shift_hsv`; 0 leaves them.
    """

    makers = "make_seg_labels.py, or name another --label_dir"

    def __init__(
        self,
        dataset: Dataset,
        ids: list[str],
        labels: Path,
        model: str,
        size: int,
        scales: Sequence[float],
        scale_draw: str,
        resample: str,
        hsv_shift: int,
        seed: int,
    ) -> None:
        super().__init__(dataset, ids, size, seed, labels)
        self.sample, self.hsv_shift = WINDOWS[model], hsv_shift
        self.scales, self.scale_draw, self.resample = scales, scale_draw, resample

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return window float32 (3, S, S), as the network takes it, and label uint8 (S, S).

        That is 13 bytes a pixel: 1.3 MB at DeepLab v2's 321, 2.6 MB at v1's 448.
        """
        image, label = self.read_pair(index)
        scale, shift = random_scale(rng, self.scales, self.scale_draw), None
        if self.hsv_shift:
            shift = rng.integers(-self.hsv_shift, self.hsv_shift, 3, endpoint=True)
        window, label = self.sample(
            np.array(image), label, rng, scale, shift, self.size, self.resample
        )
        return {"window": window, "label": label}


class Schedule:
    """Which pictures make which training step: a batch sampler of (epoch, index) pairs.

    Every epoch is a permutation by (seed, epoch); its last partial batch is dropped.

    Args:
        pictures: length of the list.
        batch_size: pictures a step.
        epochs: passes over the list; None where ``total`` counts steps.
        seed: of the permutations.
        start: first step; a continued run starts where the last one stopped.
        rows: which pictures of every batch to yield, all by default; see
            :func:`tool.distributed.rows`.
        total: steps, through as many epochs as they take.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        epochs: int | None,
        seed: int,
        start: int = 0,
        rows: slice | np.ndarray = slice(None),
        total: int | None = None,
    ) -> None:
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.start, self.rows = start, rows
        self.steps_per_epoch = pictures // batch_size
        self.total = self.steps_per_epoch * epochs if total is None else total
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.total):
            yield [(step // self.steps_per_epoch, int(i)) for i in self.batch(step)[self.rows]]

    def batch(self, step: int) -> np.ndarray:
        """Return the places in the list of all pictures of a step, int64 (batch_size,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


class ScaledPictures(TorchDataset):
    """Whole pictures at several scales, for inference.

    Args:
        dataset: where pictures and labels come from.
        ids: the pictures.
        scales: factors of both sides.
        max_pixels: larger pictures are reduced to that many pixels first, by the bicubic filter.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: list[str],
        scales: tuple[float, ...],
        max_pixels: float = math.inf,
    ) -> None:
        self.dataset, self.ids, self.scales, self.max_pixels = dataset, ids, scales, max_pixels
        self.labels = dataset.labels(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id, path, size (H, W) of the picture as it is, ``label``: uint8 (K,), and

        ``pictures``: one uint8 (3, h, w) a scale.
        """
        image = self.dataset.read(self.ids[index])
        size = (image.height, image.width)
        image = reduce(image, self.max_pixels)
        with enough_memory(f"{self.ids[index]} at {len(self.scales)} scales"):
            pictures = [channels_first(rescale(image, scale)) for scale in self.scales]
        path = self.dataset.image_path(self.ids[index])
        return {
            "id": self.ids[index],
            "path": path,
            "size": size,
            "label": self.labels[index],
            "pictures": pictures,
        }


def to_device(arrays: Iterable[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays of a batch as tensors on the device, in their order."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def channels_first(image: Image.Image) -> np.ndarray:
    """Return an RGB picture as uint8 (3, H, W)."""
    return np.array(image).transpose(2, 0, 1)


# Worker processes hand over numpy arrays, through pipes. Tensors would go through shared memory,
# of which containers have 64 MB, and a full one kills or stops the processes.


def one_by_one(pictures: TorchDataset, num_workers: int) -> DataLoader:
    """Return a loader that yields single items, in order, for pictures of any size."""
    return DataLoader(pictures, batch_size=None, num_workers=num_workers, collate_fn=_itself)


class Calls(TorchDataset):
    """Every item is what a picklable function returns, called where the item is asked for."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.items[index])


def for_each(
    items: Sequence[Any], function: Callable[[Any], None], num_workers: int, what: str
) -> None:
    """Call a function, which must be picklable, for every item, in processes, with progress."""
    calls = one_by_one(Calls(function, items), num_workers)
    for _ in progress(calls, len(items), what):
        pass


def batch_loader(pictures: TorchDataset, batch_size: int, num_workers: int) -> DataLoader:
    """Return a loader that yields the items in order, in batches as :func:`training_loader` has."""
    return DataLoader(pictures, batch_size, num_workers=num_workers, collate_fn=_stacked)


def training_loader(pictures: TorchDataset, schedule: Schedule, num_workers: int) -> DataLoader:
    """Return a loader that yields the batches of ``schedule`` for the whole training.

    A batch is a dict of what the items have, numpy arrays with the pictures along the first axis.
    """
    workers = {"num_workers": num_workers, "collate_fn": _stacked}
    return DataLoader(pictures, batch_sampler=schedule, **workers)


def _itself(item):
    return item


def _stacked(items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
