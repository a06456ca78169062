"""The optimisers, their parameter groups, and the learning rate as a function of the step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tool.errors import InputError

POWER = 0.9  # of the polynomial schedule
# The released code passes the weight decay in the momentum position of torch.optim.SGD, and the
# published numbers were made so.
RELEASED_MOMENTUM = 1e-4
OPTIMIZERS = ("sgd", "adamw")


def learning_rate(start: float, step: int, total: int, every: int = 1, past: int = 0) -> float:
    """Return the rate after ``step`` updates: start * (1 - step / (total + past)) ** 0.9.

    It changes once in ``every`` updates, and would reach 0 ``past`` updates after all.
    """
    return start * (1 - step // every * every / (total + past)) ** POWER


def parameter_group(
    name: str, params: Iterable[nn.Parameter], lr: float, lr_scale: float, weight_decay: float
) -> dict[str, Any]:
    """Return one parameter group of ``torch.optim``, which keeps ``name`` and ``lr_scale`` too.

    Those of ``params`` that learn are taken, at ``lr_scale`` times the network's learning rate
    ``lr``.
    """
    return {
        "name": name,
        "params": [parameter for parameter in params if parameter.requires_grad],
        "lr": lr * lr_scale,
        "lr_scale": lr_scale,
        "weight_decay": weight_decay,
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's rate to ``lr`` times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def make_optimizer(
    groups: list[dict],
    lr: float,
    momentum: float,
    device: torch.device,
    fused: bool,
    name: str = "sgd",
) -> torch.optim.Optimizer:
    """Return the optimiser of the groups that have parameters.

    Args:
        groups: of one network: of ``torch.optim``, or of :func:`parameter_group`.
        lr: the network's learning rate, which makes ``lr_scale`` of groups that have none.
        momentum: of SGD; AdamW has its own momenta.
        device: where the parameters are.
        fused: on CUDA, update all parameters in one kernel instead of torch's default.
        name: one of OPTIMIZERS.
    """
    groups = [{**group, "params": list(group["params"])} for group in groups]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group.setdefault("lr_scale", group.get("lr", lr) / lr if lr else 1)
    # None leaves torch its own choice between foreach and a loop, and False takes fused away.
    options = {"fused": True if fused and device.type == "cuda" else None}
    if name == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=momentum, **options)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's momenta; what its groups were constructed with stays.

    A continued run so obeys its own ``--fused``.

    Args:
        optimizer: of :func:`make_optimizer`.
        state: of a checkpoint that :func:`tool.checkpoint.check_begun` has seen.

    Raises:
        InputError: the network's parameters are grouped otherwise.
    """
    own = optimizer.state_dict()
    places = [[group["params"] for group in one["param_groups"]] for one in (own, state)]
    if places[0] != places[1]:
        raise InputError("Its optimizer is of another network. --restart begins anew.")
    optimizer.load_state_dict({**own, "state": state["state"]})
