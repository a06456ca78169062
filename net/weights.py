"""Weights that a network starts from: torchvision's of ImageNet, a file, or random numbers."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tool import checkpoint, mxnet_params
from tool.errors import InputError, naming
from tool.files import check_readable

# torchvision's IMAGENET1K_V1; the eight digits begin the SHA-256 of the file.
IMAGENET_URLS = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}
# A file, "imagenet", or "none" for random weights. Code may also say None or False for "none", and
# True for "imagenet".
Pretrained = str | Path | bool | None


def source_of(pretrained: Pretrained) -> str | Path:
    """Return ``"none"``, ``"imagenet"`` or a path."""
    if pretrained is None or isinstance(pretrained, bool):
        return "imagenet" if pretrained else "none"
    return pretrained


def read_pretrained(
    pretrained: Pretrained, architecture: str = "resnet50", with_classifier: bool = False
) -> dict[str, Tensor] | None:
    """Return the weights that a network starts from, under the names of their file.

    They come without what data parallel and compiled networks put before names; None stands for
    random weights. A file that does not exist or holds something else, or a missing network, raises
    an InputError.

    Args:
        pretrained: a file of PyTorch, safetensors or MXNet, or another ``Pretrained``. The weights
            of ImageNet are torchvision's; they are fetched once, and their checksum is verified.
        architecture: whose ImageNet weights, a key of ``IMAGENET_URLS``.
        with_classifier: keep the last layer of a ResNet, ``fc.*``.
    """
    source = source_of(pretrained)
    if source == "none":
        return None
    path = _fetch(IMAGENET_URLS[architecture]) if source == "imagenet" else Path(source)
    with naming(path):
        if mxnet_params.is_params(path):
            arrays = mxnet_params.load(path).items()
            state = {name: torch.from_numpy(array) for name, array in arrays}
            checkpoint.check_weights(state)
        else:
            state = checkpoint.load_state(path)
        state = checkpoint.without_wrappers(state)
    return {n: value for n, value in state.items() if with_classifier or not n.startswith("fc.")}


def restore(network: type[nn.Module], content: dict[str, Any], **options: Any) -> nn.Module:
    """Return the trained network, evaluating, of what ``tool.checkpoint.load`` read.

    The checkpoints of this project have a ``config``, the arguments that make the network again. A
    published file has none; its arguments are what ``network.config_of`` makes of its tensors.

    Args:
        network: class.
        content: of the file.
        options: further arguments of ``network``, which go before those.

    Raises:
        InputError: there is no such network in it, or a tensor is missing or left over.
    """
    state = checkpoint.without_wrappers(checkpoint.state_dict_of(content))
    if "config" in content:
        config = content["config"]
        _check_config(network, config, sum(value.numel() for value in state.values()))
    else:
        config = network.config_of(state)
    net = network(**config | options)
    checkpoint.load_weights(net, state)
    return net.eval()


def _check_config(network: type[nn.Module], config: Any, numbers: int) -> None:
    """Refuse what are no arguments of ``network``, or those of one larger than its weights."""
    known = inspect.signature(network).parameters
    if isinstance(config, dict) and config.keys() <= known.keys():
        width, num_classes = config.get("width"), config.get("num_classes", 1)
        blocks = config.get("blocks", [1])
        sizes = [width, num_classes, *(blocks if isinstance(blocks, list) else [None])]
        whole = all(isinstance(size, int) and size > 0 for size in sizes)
        if whole and fits(width, blocks, num_classes, numbers):
            return
    raise InputError(f"Its config {config!r:.80} does not make a {network.__name__}.")


def fits(width: int, blocks: list[int], num_classes: int, numbers: int) -> bool:
    """Return whether so many numbers may be the weights of a network of residual blocks."""
    return 0 < width * max(width * sum(blocks), num_classes) <= numbers


def cached(architecture: str) -> Path:
    """Return where torchvision's ImageNet weights lie, once they are fetched."""
    return _cache_of(IMAGENET_URLS[architecture])


def _cache_of(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _fetch(url: str) -> Path:
    """Return the file of a URL, fetched once, whose name holds the beginning of its SHA-256."""
    path = _cache_of(url)
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
    check_readable(path, f"There is no file {path}.")
    if not checkpoint.digest(path).startswith(beginning):
        raise InputError(f"{path} is damaged: its SHA-256 does not begin {beginning}. Delete it.")
    return path
