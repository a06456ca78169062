"""What both segmentation networks share: prediction, loss, optimiser groups, first weights.

Letters in shapes: B pictures, C classes with background at index 0, H x W the picture, h x w the
map of logits.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import prepare
from net.weights import Pretrained, fits, read_pretrained, source_of
from tool import checkpoint
from tool.errors import InputError, naming
from tool.optimizer import parameter_group
from tool.pictures import UNSURE

Blocks = Iterable[int]  # how many blocks each of the four stages has


class SegmentationNetwork(nn.Module):
    """A network with a head whose convolutions learn faster than the backbone.

    Args:
        num_classes: with background, C.
        width: channels after the first convolution; 64 is the published network.
        blocks: one or more a stage.
        more: what else makes this network again. ``config`` holds all, for the checkpoint.
    """

    align_corners: bool  # resized maps share the centres of their corner pixels, else the edges
    head: tuple[str, ...]  # beginnings of the names of the head's modules and tensors
    normalise: Callable[[Tensor], Tensor]  # of (B, 3, H, W) RGB in 0..255; 0 is the mean colour
    prefix: str  # of the backbone's tensors, which files of the backbone alone lack
    # What tells the size of a network: names of its first and of its last weights, and how those of
    # a block begin, a regular expression with the stage (2 to 5) as group.
    stem: str
    classifier: str
    block: str
    other_heads: tuple[str, ...]  # beginnings of names that other projects' files have besides
    layout: str  # what a file in the published names is called
    foreign: tuple[str, str]  # another layout that is read, and a name that only its files have
    arguments: ClassVar[dict[str, dict]] = {}  # of a network whose weights have a layout

    def __init__(self, num_classes: int, width: int, blocks: Blocks, **more: Any) -> None:
        super().__init__()
        blocks = tuple(blocks)
        if len(blocks) != 4 or min(blocks) < 1:
            raise InputError(f"blocks are 4 counts of at least 1, not {blocks}")
        self.config = {"num_classes": num_classes, "width": width, "blocks": list(blocks), **more}

    @classmethod
    def prepare(cls, pictures: Tensor, box: Tensor | None = None) -> Tensor:
        """Return what the network takes, float32 (B, 3, H, W), see :func:`net.inputs.prepare`.

        The pictures, RGB of 0..255, may have any dtype.
        """
        return prepare(pictures, box, cls.normalise)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (B, C, h, w) maps at ``size``, bilinear; maps of that size as they are.

        Half precision becomes float32 first: its steps would show in what is interpolated.
        """
        if maps.shape[2:] == tuple(size):
            return maps
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        return F.interpolate(maps, size, mode="bilinear", align_corners=self.align_corners)

    def predict(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits at pixels, (B, C, *size); at the size of ``x`` by default.

        A network in training mode raises a RuntimeError.
        """
        if self.training:
            raise RuntimeError("predict needs the evaluation mode: call eval() first")
        return self.resize(self(x), size or x.shape[2:])

    @staticmethod
    def loss_sums(outputs: Tensor | list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n,) sums of cross entropies and (n,) numbers of pixels for :func:`mean_loss`.

        Each of the n outputs of ``forward`` in training, logits (B, C, h, w), is compared with
        labels of its own size, made from (B, H, W) integers, 255 where unsure.
        """
        outputs = outputs if isinstance(outputs, list) else [outputs]
        pairs = (cross_entropy_sum(x, resize_labels(labels, x.shape[2:])) for x in outputs)
        sums, counts = zip(*pairs, strict=True)
        return torch.stack(sums), torch.stack(counts)

    @classmethod
    def is_head(cls, name: str) -> bool:
        """Return whether a tensor belongs to the head."""
        return name.startswith(cls.head)

    @classmethod
    def ignored_name(cls, name: str) -> bool:
        """Return whether a tensor of a file is of no use here."""
        return name.startswith(cls.other_heads)

    @classmethod
    def canonical_name(cls, name: str, shape: tuple[int, ...] = ()) -> str:
        """Return our name of a tensor in a published file, which may lack the prefix."""
        return name if name.startswith((cls.prefix, *cls.head)) else f"{cls.prefix}{name}"

    @classmethod
    def layout_of(cls, state: dict[str, Tensor]) -> str:
        """Return whose names the tensors of a file have."""
        foreign, name = cls.foreign
        return foreign if name in state else cls.layout

    @classmethod
    def size_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Return ``width``, ``blocks`` and, with a head, ``num_classes`` of tensors of a file.

        Where the first convolution or a stage is missing, or there are fewer numbers in all tensors
        than such a network has at the least, it raises an InputError.
        """
        named = {cls.canonical_name(name): value for name, value in state.items()}
        begins = {match[0]: match[1] for name in named if (match := re.match(cls.block, name))}
        counts = Counter(begins.values())
        size = {"blocks": [counts[stage] for stage in "2345"]}
        for argument, name in (("width", cls.stem), ("num_classes", cls.classifier)):
            if name in named:
                size[argument] = named[name].shape[:1].numel()
        numbers = sum(value.numel() for value in named.values())
        if "width" not in size or not fits(numbers, **size):
            raise InputError(
                f"These weights are not those of a {cls.__name__}, which has {cls.stem} and four "
                f"stages of blocks, but {checkpoint.some(named)}."
            )
        return size

    @classmethod
    def config_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments that make the trained network of a published file, of its tensors.

        Where there is no such network or no head in it, it raises an InputError.
        """
        size = cls.size_of(state)
        if "num_classes" not in size:
            raise InputError(
                f"These are weights to start training from; a trained network has {cls.classifier}."
            )
        return size

    def adapt_to(self, layout: str) -> None:
        """Change weights just loaded, of another layout, to what our input asks for."""

    def trainable_groups(
        self, lr: float, weight_decay: float, head_lr: float = 10
    ) -> list[dict[str, Any]]:
        """Return three groups for ``torch.optim``: backbone, weights and biases of the head.

        The backbone learns at ``lr``, the weights of the head at ``head_lr`` times that, its biases
        at twice the rate of the weights and without decay. No convolution of a backbone has a bias.
        """
        head = [(name, p) for name, p in self.named_parameters() if self.is_head(name)]
        backbone = [p for name, p in self.named_parameters() if not self.is_head(name)]
        weights = [p for name, p in head if not name.endswith(".bias")]
        biases = [p for name, p in head if name.endswith(".bias")]
        return [
            parameter_group("backbone", backbone, lr, 1, weight_decay),
            parameter_group("head weights", weights, lr, head_lr, weight_decay),
            parameter_group("head biases", biases, lr, 2 * head_lr, 0.0),
        ]


@lru_cache(maxsize=256)
def nearest_indices(source: int, target: int) -> np.ndarray:
    """Return the pixels that Pillow's nearest filter picks along one side, int64 (target,).

    Pillow takes floor((i + 1/2) * source / target), where it adds up the step source / target.
    Where the exact value is an integer, the rounding of that sum decides, so it is repeated here.
    """
    steps = np.full(target, source / target)
    steps[0] *= 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), source - 1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, *size) labels, picked from (B, H, W) by Pillow's nearest rule."""
    if labels.shape[1:] == tuple(size):
        return labels
    rows, columns = (
        torch.from_numpy(nearest_indices(source, target)).to(labels.device)
        for source, target in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross entropy over the pixels that are not 255, and their number.

    Both are scalars, float32 and int64, of logits (B, C, h, w) and integer labels (B, h, w).
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNSURE, reduction="sum")
    return total, (labels != UNSURE).sum()


def mean_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the sum over n outputs of the mean cross entropy of each, a scalar.

    An output whose every pixel is 255 gives zero and a zero gradient; the usual mean would be NaN.
    The (n,) sums are of a network's ``loss_sums``, the (n,) counts of pixels of all processes
    together. A process among several multiplies its own sums by their number: data parallel
    training averages gradients over processes, and their mean is then that of the whole batch.
    """
    return (sums / counts.clamp_min(1)).sum()


def build(
    network: type[SegmentationNetwork], num_classes: int, pretrained: Pretrained, **chosen: Any
) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Return a network to train, on the CPU, and a record of what it starts from.

    The record holds plain values for the log and ``args.json``: ``pretrained``, ``layout``
    ("random" or that of the weights), ``fresh`` (names of tensors that start from random numbers,
    "all" without weights), ``left_out`` (names in the file without use), and ``config``. Weights
    that are unreadable or do not fit raise an InputError, which names their source.

    Args:
        network: class.
        num_classes: with background.
        pretrained: a file in the published names or those of the network's ``foreign`` layout,
            ``"imagenet"`` where the network has an ``architecture``, or ``"none"``.
        chosen: further arguments of ``network``; those that are None are read off the weights, or
            have their default where there are none.
    """
    source = str(source_of(pretrained))
    architecture = network.architecture(chosen.get("blocks")) if source == "imagenet" else ""
    state = read_pretrained(pretrained, architecture)
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if state is None:
        net = network(num_classes, **chosen)
        record = {"pretrained": source, "layout": "random", "fresh": "all", "left_out": []}
        return net, record | {"config": net.config}
    with naming(source):
        layout = network.layout_of(state)
        size = network.size_of(state) | network.arguments.get(layout, {})
        net = network(**size | chosen | {"num_classes": num_classes})
        fresh = load_except_head(net, state)
        net.adapt_to(layout)
    unused = [name for name in state if net.ignored_name(name)]
    if fresh:
        unused += [name for name in state if net.is_head(net.canonical_name(name))]
    unused = [name for name in unused if not name.endswith(checkpoint.COUNTER)]
    record = {"pretrained": source, "layout": layout, "fresh": fresh, "left_out": unused}
    return net, record | {"config": net.config}


def load_except_head(net: SegmentationNetwork, state: dict[str, Tensor]) -> list[str]:
    """Load weights into a network whose head may be absent from them or made for other classes.

    The head is taken as a whole if every tensor of it is there and fits. Else it stays as it is,
    and the names of its tensors are returned. Outside the head, a tensor that is missing, left over
    or of another shape raises an InputError.
    """
    head = {n: value for n, value in net.state_dict().items() if net.is_head(n)}
    head = {n: value for n, value in head.items() if not n.endswith(checkpoint.COUNTER)}
    shapes = {net.canonical_name(name): value.shape for name, value in state.items()}
    if all(shapes.get(name) == value.shape for name, value in head.items()):
        head = {}
    else:
        state = {n: v for n, v in state.items() if not net.is_head(net.canonical_name(n))}
    checkpoint.load_weights(net, {**state, **head})
    return list(head)
