"""What both segmentation networks share: prediction, loss, optimiser groups, first weights.

Letters in shapes: B pictures, C classes with background at index 0, H x W the picture, h x w the
map of logits.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import within
from net.weights import source_of
from tool import checkpoint
from tool.errors import InputError, naming, printable
from tool.optimizer import parameter_group
from tool.pictures import UNSURE


class SegmentationNetwork(nn.Module):
    """A network with a head whose convolutions learn faster than the backbone.

    Attributes:
        align_corners: whether resized maps share the centres of their corner pixels, or the edges.
        head: beginnings of the names of the head's modules and tensors.
        normalise: function of pictures (B, 3, H, W), RGB of 0..255; zero is the mean colour then.
        config: arguments that make this network again; a checkpoint keeps them.
    """

    align_corners: bool
    head: tuple[str, ...]
    normalise: Callable[[Tensor], Tensor]
    config: dict[str, Any]

    @classmethod
    def prepare(cls, pictures: Tensor, box: Tensor | None = None) -> Tensor:
        """Return what the network takes, float32 (B, 3, H, W).

        Args:
            pictures: (B, 3, H, W) RGB of 0..255, any dtype.
            box: int64 (B, 4) top, left, bottom, right of the pictures in square windows, end
                exclusive; the result is zero outside.
        """
        x = cls.normalise(pictures)
        return x if box is None else within(x, box)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (B, C, h, w) maps at ``size``, bilinear; maps of that size as they are."""
        size = tuple(size)
        if maps.shape[2:] == size:
            return maps
        return F.interpolate(maps, size, mode="bilinear", align_corners=self.align_corners)

    def predict(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits at pixels, (B, C, *size); at the size of ``x`` by default.

        Raises:
            RuntimeError: the network is in training mode.
        """
        if self.training:
            raise RuntimeError("predict needs the evaluation mode: call eval() first")
        return self.resize(self(x), size or x.shape[2:])

    @staticmethod
    def loss_sums(outputs: Tensor | list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of every output as a sum, against labels of its own size.

        Args:
            outputs: of ``forward`` in training: logits (B, C, h, w), or n of them.
            labels: (B, H, W) integers, 255 where unsure.

        Returns:
            (n,) sums and (n,) numbers of pixels for :func:`mean_loss`.
        """
        outputs = outputs if isinstance(outputs, list) else [outputs]
        pairs = [
            cross_entropy_sum(logits, resize_labels(labels, logits.shape[2:])) for logits in outputs
        ]
        sums, counts = zip(*pairs, strict=True)
        return torch.stack(sums), torch.stack(counts)

    @classmethod
    def is_head(cls, name: str) -> bool:
        """Return whether a tensor belongs to the head."""
        return name.startswith(cls.head)

    def trainable_groups(
        self, lr: float, weight_decay: float, head_lr: float = 10
    ) -> list[dict[str, Any]]:
        """Return three groups for ``torch.optim``: backbone, weights and biases of the head.

        The backbone learns at ``lr``, the weights of the head at ``head_lr`` times that, its biases
        at twice the rate of the weights and without decay. No convolution of a backbone has a bias.
        """
        learning = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        head = [(name, p) for name, p in learning if self.is_head(name)]
        backbone = [p for name, p in learning if not self.is_head(name)]
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

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) integers.

    Returns:
        Two scalars, float32 and int64.
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNSURE, reduction="sum")
    return total, (labels != UNSURE).sum()


def mean_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the sum over n outputs of the mean cross entropy of each, a scalar.

    An output whose every pixel is 255 gives zero and a zero gradient; the usual mean would be NaN.

    Args:
        sums: (n,) of a network's ``loss_sums``. A process among several multiplies its own by their
            number; data parallel training averages gradients over processes, and their mean is
            then the gradient of the whole batch.
        counts: (n,) pixels, of all processes together.
    """
    return (sums / counts.clamp_min(1)).sum()


# ---------------------------------------------------------------------------- weights


class Weights(NamedTuple):
    """Somebody's weights, ready for one of our networks.

    Attributes:
        layout: whose names they had.
        tensors: under our names.
        left_out: names in the file that are of no use here.
        architecture: arguments that make the network of these weights: ``width``, ``blocks``, where
            there is a head ``num_classes``.
    """

    layout: str
    tensors: dict[str, Tensor]
    left_out: list[str]
    architecture: dict[str, Any]


def rename(
    state: dict[str, Tensor], name_of: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], list[str]]:
    """Give tensors other names; batch counters are dropped.

    Args:
        state: tensors by name.
        name_of: returns the other name, or None for a tensor of no use.

    Returns:
        named: tensors by their other names.
        left_out: names, as in ``state``, of those of no use.

    Raises:
        InputError: two tensors with different values get one name.
    """
    state = {name: v for name, v in state.items() if not name.endswith(checkpoint.COUNTER)}
    names = {name: name_of(name) for name in state}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if names[name] is not None and not checkpoint.same_values(
            named.setdefault(names[name], value), value
        ):
            raise InputError(f"{printable(name)} is given twice, with different values.")
    return named, [name for name in state if names[name] is None]


def architecture_of(
    named: dict[str, Tensor], stem: str, block: str, head: str
) -> dict[str, Any] | None:
    """Return the arguments that make a network of weights, see :class:`Weights`.

    Args:
        named: tensors under our names.
        stem, head: names of the weights of the first and the last convolution.
        block: beginning of a block's names, a regular expression with the stage (2 to 5) as group.

    Returns:
        None if the first convolution or a stage is missing, or there are fewer numbers in all
        tensors than such a network has at the least.
    """
    stages = {str(number): set() for number in (2, 3, 4, 5)}
    for match in filter(None, (re.match(block, name) for name in named)):
        stages[match[1]].add(match[0])
    if stem not in named or not all(stages.values()):
        return None
    width, blocks = named[stem].shape[:1].numel(), [len(found) for found in stages.values()]
    num_classes = named[head].shape[:1].numel() if head in named else 0
    numbers = sum(value.numel() for value in named.values())
    if not 0 < width * max(width * sum(blocks), num_classes) <= numbers:
        return None
    return {"width": width, "blocks": blocks} | (
        {"num_classes": num_classes} if num_classes else {}
    )


def start(
    network: type[SegmentationNetwork],
    pretrained: str | Path | bool | None,
    state: dict[str, Any] | None,
    recognise: Callable[[dict[str, Any]], Weights],
    **chosen: Any,
) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Return a network to train, and a record of what it starts from.

    Args:
        network: class.
        pretrained: where ``state`` comes from, for the record and messages.
        state: content of a file of weights; None for random weights.
        recognise: gives the tensors of ``state`` our names.
        chosen: arguments of ``network``; those that are None are read off the weights, or have
            their default where there are none.

    Returns:
        net: in training mode, on the CPU.
        record: plain values for the log and ``args.json``: ``pretrained``, ``layout`` ("random" or
            that of the weights), ``fresh`` (names of tensors that start from random numbers, "all"
            without weights), ``left_out`` (names in the file without use), and ``config``.

    Raises:
        InputError: the weights do not fit; the message names their source.
    """
    source = str(source_of(pretrained))
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if state is None:
        net = network(**chosen)
        layout, fresh, left_out = "random", "all", []
    else:
        with naming(source):
            weights = recognise(state)
            net = network(**{**weights.architecture, **chosen})
            fresh = load_except_head(net, weights.tensors)
        unused_head = [name for name in weights.tensors if fresh and net.is_head(name)]
        layout, left_out = weights.layout, weights.left_out + unused_head
    record = {
        "pretrained": source,
        "layout": layout,
        "fresh": fresh,
        "left_out": left_out,
        "config": net.config,
    }
    return net, record


def load_except_head(net: SegmentationNetwork, named: dict[str, Tensor]) -> list[str]:
    """Load weights into a network whose head may be absent from them or made for other classes.

    The head is taken as a whole if every tensor of it is there and fits, else it stays as it is.

    Args:
        net: with fresh weights.
        named: tensors with the names of ``net``.

    Returns:
        Names of the head's tensors that stay fresh; empty if ``named`` held a head that fits.

    Raises:
        InputError: outside the head a tensor is missing, left over or of another shape.
    """
    own = net.state_dict()
    head = [name for name in own if net.is_head(name) and not name.endswith(checkpoint.COUNTER)]
    if all(name in named and named[name].shape == own[name].shape for name in head):
        head = []
    else:
        named = {name: value for name, value in named.items() if not net.is_head(name)}
    checkpoint.load_weights(net, {**named, **{name: own[name] for name in head}})
    return head


def trained_network(network: type[SegmentationNetwork], weights: Weights) -> SegmentationNetwork:
    """Return the network that the weights of a finished training make, evaluating.

    Raises:
        InputError: there is no head, or a tensor is missing or left over.
    """
    if "num_classes" not in weights.architecture:
        raise InputError(
            f"These are weights to start training from; a trained network has {network.head[-1]}*"
        )
    net = network(**weights.architecture)
    checkpoint.load_weights(net, weights.tensors)
    return net.eval()
