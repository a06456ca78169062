"""What both segmentation networks share: prediction, loss, optimiser groups, first weights.

Letters in shapes: B pictures, C classes with background at index 0, H x W the picture, h x w the
map of logits.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import prepare
from net.weights import Pretrained, make, read_pretrained
from tool.checkpoint import Aliases, load_weights, renamed
from tool.errors import InputError, naming
from tool.optimizer import parameter_group
from tool.pictures import UNSURE

Blocks = Iterable[int]  # how many blocks each of the four stages has


def conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size where its stride is 1."""
    return nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)


def activated(x: Tensor, norm: nn.Module) -> Tensor:
    """Return the ReLU of a map after its normalisation."""
    return F.relu(norm(x), inplace=True)


class SegmentationNetwork(nn.Module):
    """A network with a head whose convolutions learn faster than the backbone.

    Args:
        num_classes: with background, C.
        width: channels after the first convolution; 64 is the published network.
        blocks: one or more a stage.
        more: what else makes this network again. ``config`` holds all, for the checkpoint.
    """

    in_order = True  # see net.resnet50.fold_batch_norm
    align_corners: bool  # resized maps share the centres of their corner pixels, else the edges
    head: tuple[str, ...]  # beginnings of the names of the head's modules and tensors
    normalise: Callable[[Tensor], Tensor]  # of (B, 3, H, W) RGB in 0..255; 0 is the mean colour
    aliases: Aliases  # of tensors in published files, see :func:`tool.checkpoint.renamed`
    ignored: tuple[str, ...]  # beginnings of names that other projects' files have besides
    # What tells the size of a network: names of its first and of its last weights, and how those of
    # a block begin, a regular expression with the stage (2 to 5) as group.
    stem: str
    classifier: str
    block: str
    architecture: Callable[[Blocks | None], str]  # whose ImageNet weights it starts from

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

    def resize(self, maps: Tensor, size: Sequence[int]) -> Tensor:
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
    def loss_sums(
        outputs: Tensor | list[Tensor], labels: Tensor, parts: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return (n,) sums of cross entropies and (n,) numbers of pixels for :func:`mean_loss`.

        Each of the outputs of ``forward`` in training, logits (B, C, h, w), is compared with
        labels of its own size, made from (B, H, W) integers, 255 where unsure. The batch consists
        of so many parts of one size, each of which has a sum and a number of its own.
        """
        pairs: list[tuple[Tensor, Tensor]] = []
        for x in outputs if isinstance(outputs, list) else [outputs]:
            own = resize_labels(labels, x.shape[2:])
            several = zip(x.chunk(parts), own.chunk(parts), strict=True)
            pairs += [(x, own)] if parts == 1 else several
        sums, counts = zip(*(cross_entropy_sum(*pair) for pair in pairs), strict=True)
        return torch.stack(sums), torch.stack(counts)

    @classmethod
    def is_head(cls, name: str) -> bool:
        """Return whether a tensor belongs to the head."""
        return name.startswith(cls.head)

    @classmethod
    def config_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Return ``width``, ``blocks`` and ``num_classes`` of the tensors of a file.

        Without a first convolution there is no width, and without a head no number of classes.
        """
        named = {renamed(name, cls.aliases): value.shape for name, value in state.items()}
        begins = {match[0]: match[1] for name in named if (match := re.match(cls.block, name))}
        stages = Counter(begins.values())
        config: dict[str, Any] = {"blocks": [stages[stage] for stage in "2345"]}
        for argument, name in (("width", cls.stem), ("num_classes", cls.classifier)):
            if name in named:
                config[argument] = named[name][:1].numel()
        return config

    @classmethod
    def first_weights(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that a training starts from, of those in a file."""
        return state

    def adapt(self, state: dict[str, Tensor]) -> None:
        """Change weights just loaded from a file of another project to what our input asks for."""

    def trainable_groups(
        self, lr: float, weight_decay: float, head_lr: float = 10
    ) -> list[dict[str, Any]]:
        """Return three groups for ``torch.optim``: backbone, weights and biases of the head.

        The backbone learns at ``lr``, the weights of the head at ``head_lr`` times that, its biases
        at twice the rate of the weights and without decay. No convolution of a backbone has a bias.
        """
        parts: dict[str, list[nn.Parameter]] = {"backbone": [], "weight": [], "bias": []}
        for name, parameter in self.named_parameters():
            part = name.rpartition(".")[2] if self.is_head(name) else "backbone"
            parts[part].append(parameter)
        return [
            parameter_group("backbone", parts["backbone"], lr, 1, weight_decay),
            parameter_group("head weights", parts["weight"], lr, head_lr, weight_decay),
            parameter_group("head biases", parts["bias"], lr, 2 * head_lr, 0.0),
        ]


@lru_cache(maxsize=256)
def nearest_indices(source: int, target: int, device: torch.device) -> Tensor:
    """Return the pixels that Pillow's nearest filter picks along one side, int64 (target,).

    They are copied to the device once, as a GPU would be waited for.

    Pillow takes floor((i + 1/2) * source / target), where it adds up the step source / target.
    Where the exact value is an integer, the rounding of that sum decides, so it is repeated here.
    """
    steps = np.full(target, source / target)
    steps[0] *= 0.5
    picked = np.minimum(np.cumsum(steps).astype(np.int64), source - 1)
    return torch.from_numpy(picked).to(device)


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, *size) labels, picked from (B, H, W) by Pillow's nearest rule."""
    rows, columns = (
        nearest_indices(source, target, labels.device)
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

    The head is taken from weights that were trained for as many classes, and starts from random
    numbers else. The record says for the log and ``args.json`` what is ``fresh``: "all", "head" or
    "nothing". Weights that are unreadable or do not fit raise an InputError, which names their
    source.

    Args:
        network: class.
        num_classes: with background.
        pretrained: a file in names that the network knows, ``"imagenet"`` where it has an
            ``architecture``, or ``"none"``.
        chosen: further arguments of ``network``; those that are None are read off the weights, or
            have their default where there are none.
    """
    architecture = ""
    if pretrained == "imagenet":
        architecture = network.architecture(chosen.get("blocks"))
    state = read_pretrained(pretrained, architecture)
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if state is None:
        return network(num_classes, **chosen), {"fresh": "all"}
    fresh = "nothing"
    with naming(pretrained):
        state = network.first_weights(state)
        config = network.config_of(state)
        net = make(network, state, config, num_classes=num_classes, **chosen)
        if config.get("num_classes") != num_classes:
            fresh = "head"
            state = {n: v for n, v in state.items() if not net.is_head(renamed(n, net.aliases))}
            state |= {n: v for n, v in net.state_dict().items() if net.is_head(n)}
        load_weights(net, state)
        net.adapt(state)
    return net, {"fresh": fresh}
