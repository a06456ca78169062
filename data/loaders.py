"""Loaders: for training classifier, IRN and segmentation, and for inference at several scales."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.transforms import random_pair, random_scale, random_view, rescale, shift_hsv
from tool.errors import InputError
from tool.indexing import STRIDE, reduce_label
from tool.pictures import UNSURE, read_mask, read_rgb


class TrainingPictures(TorchDataset):
    """Random views of pictures to learn from; a subclass says in ``view`` what an item is.

    An item is asked for by (epoch, index), and its augmentation is a function of (seed, epoch,
    index) alone: workers, processes and restarts do not change it.

    Args:
        dataset: where pictures and labels come from, and how many classes there are.
        ids: the list to learn from.
        labels: folder of <id>.png, the label of every pixel, 0..C-1, 255 unsure; None where a view
            has no such label.
        size: side S of the training window in pixels.
        seed: of all chance.
    """

    def __init__(
        self, dataset: Dataset, ids: list[str], labels: Path | None, size: int, seed: int
    ) -> None:
        self.paths = [dataset.image_path(image_id) for image_id in ids]
        self.label_paths = [labels / f"{image_id}.png" for image_id in ids if labels]
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray | Tensor]:
        epoch, index = key
        return self.view(index, np.random.default_rng([self.seed, epoch, index]))


class ClassificationPictures(TrainingPictures):
    """Random views of pictures with their image-level labels.

    The long side of the resized picture lies in ``smallest`` to ``largest`` pixels; for the other
    arguments see :class:`TrainingPictures`.
    """

    def __init__(
        self, dataset: Dataset, ids: list[str], size: int, smallest: int, largest: int, seed: int
    ) -> None:
        super().__init__(dataset, ids, None, size, seed)
        self.labels = dataset.labels(ids)  # (n, K)
        self.smallest, self.largest = smallest, largest

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (K,)."""
        image = read_rgb(self.paths[index])
        window, box = random_view(image, rng, self.smallest, self.largest, self.size)
        return {"window": window, "box": box, "label": self.labels[index]}


class AffinityPictures(TrainingPictures):
    """Random views of pictures with their confident areas, for IRN."""

    scales = (0.5, 1.5)

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray | Tensor]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (S / 4, S / 4)."""
        image, label = read_pair(self.paths[index], self.label_paths[index], "run cam2ir.py")
        scale = random_scale(rng, self.scales, "uniform")
        window, box, label = random_pair(image, label, rng, scale, self.size)
        small = -(-self.size // STRIDE)
        label = reduce_label(torch.from_numpy(np.ascontiguousarray(label)), (small, small))
        return {"window": window, "box": box, "label": label}


class SegmentationPictures(TrainingPictures):
    """Random views of pictures with the label of every pixel, for step 3.

    Args:
        dataset, ids, labels, size, seed: see :class:`TrainingPictures`.
        scales, scale_draw: factors of both sides, see :func:`data.transforms.random_scale`.
        resample: filter of the picture, one of ``data.transforms.RESAMPLE``.
        hsv_shift: hue, saturation and value each move by an integer drawn from -hsv_shift to
            hsv_shift, in OpenCV's units, see :func:`data.transforms.shift_hsv`; 0 leaves them.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: list[str],
        labels: Path,
        size: int,
        scales: Sequence[float],
        scale_draw: str,
        resample: str,
        hsv_shift: int,
        seed: int,
    ) -> None:
        super().__init__(dataset, ids, labels, size, seed)
        self.num_classes = dataset.num_classes
        self.scales, self.scale_draw, self.resample = scales, scale_draw, resample
        self.hsv_shift = hsv_shift

    def view(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (S, S), 255 in the padding."""
        image, label = read_pair(self.paths[index], self.label_paths[index], "make it again")
        known = label[label != UNSURE]
        if known.size and known.max() >= self.num_classes:
            raise InputError(
                f"{self.label_paths[index]} has class {known.max()}; this dataset has 0 to "
                f"{self.num_classes - 1}. Check --dataset and --label_dir."
            )
        scale = random_scale(rng, self.scales, self.scale_draw)
        if self.hsv_shift:
            image = shift_hsv(
                image, rng.integers(-self.hsv_shift, self.hsv_shift, 3, endpoint=True)
            )
        window, box, label = random_pair(image, label, rng, scale, self.size, self.resample)
        return {"window": window, "box": box, "label": np.ascontiguousarray(label)}


def read_pair(picture: Path, label: Path, mend: str) -> tuple[Image.Image, np.ndarray]:
    """Return the picture and the label, uint8 (H, W), in two files.

    Raises:
        InputError: a file is missing or broken, or the label is of another size; ``mend`` says what
            to do after deleting it.
    """
    image, ids = read_rgb(picture), read_mask(label)
    if ids.shape != (image.height, image.width):
        raise InputError(
            f"{label} is {ids.shape[1]}x{ids.shape[0]}, its picture {image.width}x{image.height}. "
            f"Delete it and {mend}."
        )
    return image, ids


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

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.start:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
            batch = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in batch[self.rows]]


class ScaledPictures(TorchDataset):
    """Whole pictures at several scales, for inference.

    Args:
        dataset, ids: where pictures and labels come from, and which.
        scales: factors of both sides.
        with_original: hand over the picture itself too, for drawing.
        with_label: hand over image labels; without, there need be none.
        max_pixels: larger pictures are reduced to that many pixels first, by the bicubic filter.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: list[str],
        scales: tuple[float, ...],
        with_original: bool = False,
        with_label: bool = True,
        max_pixels: float = math.inf,
    ) -> None:
        self.ids, self.paths = ids, [dataset.image_path(image_id) for image_id in ids]
        self.labels = dataset.labels(ids) if with_label else None
        self.scales, self.max_pixels, self.with_original = scales, max_pixels, with_original

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id, size (H, W), pictures: one uint8 (3, h, w) a scale; and if asked for

        ``label``: uint8 (K,), and ``original``: uint8 (H, W, 3), reduced like all of them.
        """
        image = read_rgb(self.paths[index])
        size = (image.height, image.width)
        if size[0] * size[1] > self.max_pixels:
            image = rescale(image, math.sqrt(self.max_pixels / (size[0] * size[1])))
        scaled = [to_tensor(rescale(image, scale)) for scale in self.scales]
        item = {"id": self.ids[index], "size": size, "pictures": scaled}
        if self.labels is not None:
            item["label"] = torch.from_numpy(self.labels[index])
        if self.with_original:
            item["original"] = torch.from_numpy(np.array(image))
        return item


def to_device(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of a batch on the device, in their order."""
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def to_tensor(image) -> Tensor:
    """Return an RGB picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def one_by_one(pictures: TorchDataset, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """Return a loader that yields single items, in order, for pictures of any size."""
    return DataLoader(pictures, batch_size=None, num_workers=num_workers, pin_memory=pin_memory)


def training_loader(
    pictures: TorchDataset, schedule: Schedule, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Return a loader that yields the batches of ``schedule`` for the whole training."""
    return DataLoader(
        pictures, batch_sampler=schedule, num_workers=num_workers, pin_memory=pin_memory
    )
