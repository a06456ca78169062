"""Numbers that are copied to a device once, and not in every step."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(values: float | tuple[float, ...], device: torch.device) -> Tensor:
    """Return plain numbers as float32 on a device, always the same tensor: do not change it."""
    with torch.inference_mode(False):  # it may be asked for there first, and in a training later
        return torch.tensor(values, dtype=torch.float32, device=device)
