"""Loaders: for training the classifier and IRN, and for inference at several scales."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.transforms import random_pair, random_view, rescale
from tool.errors import InputError
from tool.indexing import STRIDE, reduce_label
from tool.pictures import read_mask, read_rgb


class ClassificationPictures(TorchDataset):
    """Random views of pictures with their image-level labels.

    An item is asked for by (epoch, index), and its augmentation is a function of (seed, epoch,
    index) alone: workers, processes and restarts do not change it.

    Args:
        dataset: where pictures and labels come from.
        ids: the list to learn from.
        size: side of the training window in pixels.
        smallest, largest: range of the long side of the resized picture in pixels.
        seed: of all chance.
    """

    def __init__(
        self, dataset: Dataset, ids: list[str], size: int, smallest: int, largest: int, seed: int
    ) -> None:
        self.paths = [dataset.image_path(image_id) for image_id in ids]
        self.labels = dataset.labels(ids)  # (n, K)
        self.size, self.smallest, self.largest, self.seed = size, smallest, largest, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (K,)."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        image = read_rgb(self.paths[index])
        window, box = random_view(image, rng, self.smallest, self.largest, self.size)
        return {"window": window, "box": box, "label": self.labels[index]}


class AffinityPictures(TorchDataset):
    """Random views of pictures with their confident areas, for IRN.

    An item is asked for by (epoch, index), see :class:`ClassificationPictures`.

    Args:
        dataset: where pictures come from.
        ids: the list to learn from.
        labels: folder of label PNGs, 255 unsure.
        size: side of the training window in pixels.
        seed: of all chance.
    """

    scales = (0.5, 1.5)

    def __init__(self, dataset: Dataset, ids: list[str], labels: Path, size: int, seed: int):
        self.paths = [dataset.image_path(image_id) for image_id in ids]
        self.labels = [labels / f"{image_id}.png" for image_id in ids]
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray | Tensor]:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (S / 4, S / 4)."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        image, label = read_rgb(self.paths[index]), read_mask(self.labels[index])
        if label.shape != (image.height, image.width):
            raise InputError(
                f"{self.labels[index]} is {label.shape[1]}x{label.shape[0]}, its picture "
                f"{image.width}x{image.height}. Delete it and run cam2ir.py."
            )
        window, box, label = random_pair(image, label, rng, self.scales, self.size)
        small = -(-self.size // STRIDE)
        label = reduce_label(torch.from_numpy(np.ascontiguousarray(label)), (small, small))
        return {"window": window, "box": box, "label": label}


class Schedule:
    """Which pictures make which training step: a batch sampler of (epoch, index) pairs.

    Every epoch is a permutation by (seed, epoch); its last partial batch is dropped.

    Args:
        pictures: length of the list.
        batch_size: pictures a step.
        epochs: passes over the list.
        seed: of the permutations.
        start: first step; a continued run starts where the last one stopped.
        rows: which pictures of every batch to yield, all by default; see
            :func:`tool.distributed.rows`.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        rows: slice = slice(None),
    ) -> None:
        self.pictures, self.batch_size, self.seed, self.start = pictures, batch_size, seed, start
        self.rows = rows
        self.steps_per_epoch = pictures // batch_size
        self.total = self.steps_per_epoch * epochs

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, current = np.empty(0), -1
        for step in range(self.start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
                current = epoch
            batch = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in batch[self.rows]]


class ScaledPictures(TorchDataset):
    """Whole pictures at several scales, for inference.

    Args:
        dataset: where pictures and labels come from.
        ids: the pictures.
        scales: factors of both sides.
        with_original: hand over the picture itself too, for drawing.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: list[str],
        scales: tuple[float, ...],
        with_original: bool = False,
    ) -> None:
        self.ids = ids
        self.paths = [dataset.image_path(image_id) for image_id in ids]
        self.labels = dataset.labels(ids)
        self.scales = scales
        self.with_original = with_original

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id, size (H, W), pictures: one uint8 (3, h, w) a scale, label uint8 (K,).

        And ``original``: uint8 (H, W, 3), if asked for.
        """
        image = read_rgb(self.paths[index])
        item = {
            "id": self.ids[index],
            "size": (image.height, image.width),
            "pictures": [to_tensor(rescale(image, scale)) for scale in self.scales],
            "label": torch.from_numpy(self.labels[index]),
        }
        if self.with_original:
            item["original"] = torch.from_numpy(np.array(image))
        return item


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
