"""Loaders: for training classifier, IRN and segmentation, and for inference at several scales."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.transforms import random_pair, random_scale, random_window, reduce, rescale, shift_hsv
from net.recipes import TrainingFlags
from tool import distributed
from tool.cli import LARGEST
from tool.errors import InputError
from tool.indexing import STRIDE
from tool.pictures import UNSURE, check_label, read_mask
from tool.progress import progress
from tool.reader import check_exist
from tool.record import settings_of
from tool.stop import follow_parent

Item = TypeVar("Item")
Arrays = dict[str, np.ndarray]

MAKE = "Make them of the same list by cam2ir.py or make_seg_labels.py, or give another --label_dir"


@dataclass
class RandomViews(TorchDataset):
    """Random views of the pictures of a list.

    The trainers ask for an item by (epoch, index), and its augmentation is a function of (seed,
    epoch, index) alone: workers, processes and restarts do not change it. A plain ``DataLoader``
    asks by the index, and a number of torch's generator, which every worker has of its own in every
    epoch, stands for the epoch. Subclasses have a method ``view(index, rng)``, which returns the
    item and has no other source of chance.

    Args:
        dataset: where pictures and labels come from.
        ids: the list to learn from.
        size: side S of the training window in pixels.
        seed: of all chance.
    """

    dataset: Dataset
    ids: list[str]
    size: int
    seed: int

    label_files = ()  # of the labels of every pixel, where they are learnt from
    labels = np.empty(0, np.uint8)  # image-level ones, (n, K), where they are learnt from

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int] | int) -> Arrays:
        epoch, index = key if isinstance(key, tuple) else (torch.randint(LARGEST, ()).item(), key)
        return self.view(index, np.random.default_rng([self.seed, epoch, index]))


@dataclass
class LabelledPictures(RandomViews):
    """Random views of pictures with the label of every pixel.

    ``folder`` holds label PNGs, 0..C-1, 255 unsure. One that is missing, a note in the folder that
    they are of other classes, or no pixel of any that is not unsure, raises an InputError. Pictures
    of more than ``max_pixels`` are reduced to so many, as they are where the network is applied.
    """

    folder: Path
    max_pixels: float = field(default=math.inf, kw_only=True)

    def __post_init__(self) -> None:
        self.label_files = [self.folder / f"{image_id}.png" for image_id in self.ids]
        check_exist(self.label_files, "labels", MAKE)
        settings_of(self.folder, self.dataset.all_names)  # of these classes, and in this order
        if all((read_mask(path) == UNSURE).all() for path in self.label_files):
            raise InputError(
                f"Every pixel of the labels in {self.folder} is 255, unsure, so nothing can be "
                "learnt from them. Make them of better maps, or give another --label_dir."
            )

    def read_pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Return a picture and its label, uint8 (H, W), which is reduced by the nearest pixel.

        A file that is missing or broken, or a label of another size or of other classes, raises an
        InputError.
        """
        image, path = self.dataset.read(self.ids[index]), self.label_files[index]
        label = read_mask(path)
        check_label(path, label, self.dataset.num_classes, image.size)
        image = reduce(image, self.max_pixels)
        smaller = Image.fromarray(label).resize(image.size, Image.Resampling.NEAREST)
        return image, np.array(smaller)


@dataclass
class ClassificationPictures(RandomViews):
    """Random views of pictures with their image-level labels.

    The long side of the resized picture is drawn uniformly from ``smallest`` to ``largest`` pixels,
    both included. Pictures stand in the list as often as :func:`repeats` says of ``repeat_rare``.
    For the other arguments see :class:`RandomViews`.
    """

    smallest: int
    largest: int
    repeat_rare: float = 0

    def __post_init__(self) -> None:
        labels = self.dataset.labels(self.ids)  # (n, K)
        rows = np.repeat(np.arange(len(labels)), repeats(labels, self.repeat_rare))
        self.ids, self.labels = [self.ids[row] for row in rows], labels[rows]

    def view(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (K,)."""
        image = self.dataset.read(self.ids[index])
        long_side = int(rng.integers(self.smallest, self.largest, endpoint=True))
        scale = long_side / max(image.size)
        window, box, _ = random_pair(image, None, rng, scale, self.size)
        return {"window": window, "box": box, "label": self.labels[index]}


def repeats(labels: np.ndarray, share: float) -> np.ndarray:
    """Return how often a training learns from each picture in an epoch, int64 (n,), at least 1.

    A class that a part f of the pictures shows asks for max(1, sqrt(share / f)) times, and a
    picture is shown as often as its rarest class asks for: the repeat factor of LVIS (Gupta et al.,
    CVPR 2019). The fractions that pictures leave are added up along the list, and one more is shown
    where they reach a whole.

    Args:
        labels: (n, K) in {0, 1}.
        share: of the pictures, 0 to 1, below which a class is rare.
    """
    parts = np.maximum(labels.mean(0), 1 / len(labels))  # not 0, of a class that none shows
    factors = (labels * np.sqrt(share / parts)).max(1, initial=1)
    return np.diff(np.floor(np.cumsum(factors)).astype(np.int64), prepend=0)


@dataclass
class AffinityPictures(LabelledPictures):
    """Random views of pictures with their confident areas, for IRN; see :class:`RandomViews`."""

    scales = (0.5, 1.5)

    def view(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return window uint8 (3, S, S), box int64 (4,), label uint8 (S / 4, S / 4)."""
        image, label = self.read_pair(index)
        scale = float(rng.uniform(*self.scales))
        window, box, label = random_pair(image, label, rng, scale, self.size)
        small = -(-self.size // STRIDE)
        label = Image.fromarray(label).resize((small, small), Image.Resampling.NEAREST)
        return {"window": window, "box": box, "label": np.array(label)}


@dataclass
class SegmentationPictures(LabelledPictures):
    """Random views of pictures with the label of every pixel, for step 3.

    Args:
        dataset, ids, size, seed, folder: see :class:`LabelledPictures`.
        model: whose recipe samples the pictures, a key of ``data.transforms.VIEWS``.
        how: the scales, see :func:`data.transforms.random_scale`; the filter; and the shift of
            colours, see :func:`data.transforms.shift_hsv`: hue, saturation and value each move by
            an integer drawn from -hsv_shift to hsv_shift, and 0 leaves them.
    """

    model: str
    how: TrainingFlags

    def view(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return window float32 (3, S, S), as the network takes it, and label uint8 (S, S).

        That is 13 bytes a pixel: 1.3 MB at DeepLab v2's 321, 2.6 MB at v1's 448.
        """
        image, label = self.read_pair(index)
        picture, how = np.array(image), self.how
        scale = random_scale(rng, how.scales, how.scale_draw)
        if how.hsv_shift:
            shift = rng.integers(-how.hsv_shift, how.hsv_shift, 3, endpoint=True)
            picture = shift_hsv(picture, shift)
        window, label = random_window(
            self.model, picture, label, rng, scale, self.size, how.resample
        )
        return {"window": window, "label": label}


@dataclass
class Schedule(Sampler):
    """Which pictures make which training step: a batch sampler of (epoch, index) pairs.

    Every epoch is a permutation by (seed, epoch); its last partial step is dropped.

    Args:
        pictures: length of the list.
        batch_size: pictures of a part, on all processes together.
        epochs: passes over the list; None where ``total`` counts steps.
        seed: of the permutations.
        start: first step; a continued run starts where the last one stopped.
        parts: of a step; a process has its rows of one after another, see
            :func:`tool.distributed.rows`.
        total: steps, through as many epochs as they take.
    """

    pictures: int
    batch_size: int
    epochs: int | None
    seed: int
    start: int = 0
    parts: int = 1
    total: int | None = None

    def __post_init__(self) -> None:
        self.step_size = self.batch_size * self.parts
        rows = np.arange(self.step_size).reshape(self.parts, self.batch_size)
        self.rows = rows[:, distributed.rows(self.batch_size)].ravel()
        self.steps_per_epoch = self.pictures // self.step_size
        if self.total is None:
            self.total = self.steps_per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
            rows = position * self.step_size + self.rows
            yield [(epoch, int(index)) for index in order[rows]]


def plain_picture(dataset: Dataset, max_pixels: float, image_id: str) -> dict:
    """Return a picture: ``id``, ``path``, ``size`` (H, W), ``picture``: uint8 (h, w, 3), reduced.

    Only pictures of more than ``max_pixels`` are reduced, to so many.
    """
    image = dataset.read(image_id)
    return {
        "id": image_id,
        "path": dataset.image_path(image_id),
        "size": (image.height, image.width),
        "picture": np.array(reduce(image, max_pixels)),
    }


def scaled_picture(
    dataset: Dataset, scales: Iterable[float], max_pixels: float, image_id: str
) -> dict:
    """Return what :func:`plain_picture` does, but ``pictures``, one uint8 (3, h, w) a scale.

    And ``present``: uint8 (C,) in {0, 1}, the classes of its label and background.
    """
    item = plain_picture(dataset, max_pixels, image_id)
    image = Image.fromarray(item.pop("picture"))
    resized = (np.array(rescale(image, scale)) for scale in scales)
    pictures = [pixels.transpose(2, 0, 1) for pixels in resized]
    present = np.pad(dataset.labels([image_id])[0], (1, 0), constant_values=1)
    return {**item, "present": present, "pictures": pictures}


def to_device(arrays: Iterable[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays of a batch as tensors on the device, in their order."""
    tensors = map(torch.from_numpy, arrays)
    if device.type == "cuda":
        tensors = map(Tensor.pin_memory, tensors)
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def to_cpu(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begin to copy tensors of one device, and return what waits for the copies, not for more."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if not tensors[0].is_cuda:
        return lambda: copies
    event = torch.cuda.Event(blocking=True)
    event.record()

    def wait() -> list[Tensor]:
        event.synchronize()
        return copies

    return wait


def ahead(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """Yield items; on CUDA, which works meanwhile, a thread takes the next one already."""
    if device.type != "cuda":
        yield from items
        return
    start = torch.cuda.set_device
    with ThreadPoolExecutor(1, initializer=start, initargs=(device,)) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


# Worker processes hand over numpy arrays, through pipes. Tensors would go through shared memory,
# of which containers have 64 MB, and a full one kills or stops the processes.


def one_by_one(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    at_once: int | None = None,
) -> DataLoader:
    """Return a loader that yields what a picklable function returns of each item, in order.

    With ``at_once``, the function takes lists of so many items.
    """
    return _loader(items, num_workers, batch_size=at_once, collate_fn=function)


def for_each(
    items: Sequence[Any], function: Callable[[Any], None], num_workers: int, what: str
) -> None:
    """Call a function, which must be picklable, for every item, in processes, with progress."""
    for _ in progress(one_by_one(function, items, num_workers), len(items), what):
        pass


def training_loader(pictures: TorchDataset, batches: Sampler[list], num_workers: int) -> DataLoader:
    """Return a loader that yields ``batches``, such as those of a :class:`Schedule`.

    A batch is a dict of what the items have, numpy arrays with the pictures along the first axis.
    """
    return _loader(pictures, num_workers, batch_sampler=batches, collate_fn=_stacked)


def _loader(items: TorchDataset | Sequence[Any], num_workers: int, **options: Any) -> DataLoader:
    return DataLoader(items, num_workers=num_workers, worker_init_fn=follow_parent, **options)


def _stacked(items: list[Arrays]) -> Arrays:
    # Channel by channel, since the weights alone decide the layout that convolutions take.
    return {
        name: np.ascontiguousarray(np.stack([item[name] for item in items])) for name in items[0]
    }
