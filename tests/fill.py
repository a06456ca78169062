"""Stand-in weights, keyed by the name of the parameter.

The reference's numbers in ``tests/parity`` were computed with these, so the network can be rebuilt
without a file of weights.
"""

import re
import zlib

import numpy as np
import torch
from torch import nn

from tool.checkpoint import load_weights

BACKBONE = r"^(resnet50|backbone)\."  # in names of ours


def fill(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return the float32 values that the reference used for a parameter or buffer."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    kind = name.split(".")[-1]
    if kind == "running_mean":
        low, high = -0.1, 0.1
    elif kind == "running_var":
        low, high = 0.8, 1.5
    elif len(shape) > 1:
        deviation = np.sqrt(2.0 / np.prod(shape[1:]))
        return (generator.standard_normal(shape) * deviation).astype(np.float32)
    elif kind != "weight":
        low, high = -1.0, 0.2
    elif ".bn3." in name or ".increase.bn." in name:  # small, so that the picture stays visible
        low, high = 0.1, 0.3
    else:
        low, high = 0.5, 1.5
    return generator.uniform(low, high, shape).astype(np.float32)


def filled_state(model: nn.Module, prefix: str = BACKBONE) -> dict[str, torch.Tensor]:
    """Return a state dict for ``model``; names are filled without the backbone's prefix."""
    return {
        name: torch.from_numpy(fill(re.sub(prefix, "", name), tuple(value.shape)))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def filled(net: nn.Module, prefix: str = BACKBONE) -> nn.Module:
    """Return the network with the weights of :func:`filled_state`."""
    load_weights(net, filled_state(net, prefix))
    return net


def tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the weights of a network by their names, without counters."""
    return {n: v.clone() for n, v in net.state_dict().items() if not n.endswith("tracked")}
