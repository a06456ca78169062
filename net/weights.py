"""Weights that a network starts from: torchvision's of ImageNet, a file, or random numbers."""

import inspect
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tool import checkpoint
from tool.errors import InputError, naming
from tool.reader import Damaged, check, decoding, file_digest

# torchvision's IMAGENET1K_V1; the eight digits begin the SHA-256 of the file.
IMAGENET_URLS = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}
Pretrained = str | Path | None  # a file, "imagenet", or "none" for random weights, as is None
# What a checkpoint of this project says of its network; networks may have more arguments.
CONFIG = {
    "width?": int,
    "num_classes?": int,
    "blocks?": [int],
    "backbone?": str,
    "stride?": int,
}

log = logging.getLogger(__name__)


def read_pretrained(
    pretrained: Pretrained, architecture: str = "resnet50"
) -> dict[str, Tensor] | None:
    """Return the weights that a network starts from, under the names of their file.

    They come without what data parallel and compiled networks put before names; None stands for
    random weights, and a warning says where ``"none"`` asked for them. A file that does not exist
    or holds something else, or a missing network, raises an InputError.

    Args:
        pretrained: a file of PyTorch, safetensors or MXNet, or another ``Pretrained``. The weights
            of ImageNet are torchvision's; they are fetched once, and their checksum is verified.
        architecture: whose ImageNet weights, a key of ``IMAGENET_URLS``.
    """
    if pretrained in (None, "none"):
        if pretrained:
            log.warning("starting from random weights")
        return None
    path = _fetch(architecture) if pretrained == "imagenet" else Path(pretrained)
    return checkpoint.load_state(path)


def restore(network: type[Any], content: dict[str, Any], **options: Any) -> Any:
    """Return the trained network, evaluating, of what ``tool.checkpoint.load`` read.

    The checkpoints of this project have a ``config``, the arguments that make the network again. A
    published file has none; its arguments are what ``network.config_of`` makes of its tensors.

    Args:
        network: class.
        content: of the file, which messages name.
        options: further arguments of ``network``, which go before those.

    Raises:
        InputError: there is no such network in it, or a tensor is missing or left over.
    """
    with naming(getattr(content, "path", "")):
        state = checkpoint.state_dict_of(content)
        net = make(network, state, content.get("config"), **options)
        checkpoint.load_weights(net, state)
        return net.eval()


def make(network: type[Any], state: dict[str, Tensor], config: Any = None, **options: Any) -> Any:
    """Return a network with random weights, of the size of those in a file.

    Args:
        network: class.
        state: tensors of the file.
        config: arguments of ``network``; None are what ``network.config_of`` makes of the tensors.
        options: further ones, which go before those.

    Raises:
        InputError: these are no arguments of it, or such a network would be larger than the file.
    """
    config = network.config_of(state) if config is None else config
    with decoding("Its config", f"It does not make a {network.__name__}."):
        check(config, CONFIG)
        inspect.signature(network).bind(**config | options)
        needed, held = 0, _numbers(state.values())
        if "backbone" in config:  # a name says no size, and here the network takes no memory
            with torch.device("meta"):
                needed = _numbers(network(**config | options).parameters())
        if needed > held or not fits(held, **config):
            raise Damaged(repr(config))
    return network(**config | options)


def _numbers(tensors: Iterable[Tensor]) -> int:
    """Return how many numbers tensors hold."""
    return sum(tensor.numel() for tensor in tensors)


def fits(
    numbers: int, width: int = 1, num_classes: int = 1, blocks: Iterable[int] = (1,), **more: Any
) -> bool:
    """Return whether so many numbers may be the weights of a network of residual blocks.

    Of ``more`` arguments, whole numbers count as sizes, too.
    """
    sizes = [value for value in more.values() if isinstance(value, int)]
    smallest = max(width * width * sum(blocks), width * num_classes, *sizes)
    return min(width, num_classes, *blocks) > 0 and smallest <= numbers


def cached(architecture: str) -> Path:
    """Return where torchvision's ImageNet weights lie, once they are fetched."""
    name = IMAGENET_URLS[architecture].rpartition("/")[2]
    return Path(torch.hub.get_dir(), "checkpoints", name)


def _fetch(architecture: str) -> Path:
    """Return the file of ImageNet's weights, fetched once."""
    url, path = IMAGENET_URLS[architecture], cached(architecture)
    beginning = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), beginning)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a bad hash a RuntimeError
        raise InputError(
            f"The ImageNet weights could not be fetched: {error}. Download {url} by hand and pass "
            "--pretrained PATH, or --pretrained none for random weights."
        ) from error
    if not file_digest(path).startswith(beginning):
        raise InputError(f"{path} is damaged: its SHA-256 does not begin {beginning}. Delete it.")
    return path
