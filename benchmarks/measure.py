"""Formulations of one thing side by side: seconds, peak memory, and whether they agree.

Each has a process of its own that has done nothing before, so that its memory is all that it needs
beyond Python's modules: inputs, weights, gradients and momenta. On a processor they are called in
turns, so that whatever else the machine has to do disturbs all of them; on a GPU, whose memory they
would share, one after the other. Seconds are medians.
"""

import argparse
import importlib
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tool.cli import pick_device

Call = Callable[[], Tensor]  # does the work once, and returns what is to be compared
Make = Callable[[], Call]  # makes inputs and networks; can be pickled

TURN = 0.5  # seconds; short calls want to be many, and long ones to alternate
# Where it is computed; turns that are timed after a first one; what takes longer is skipped.
FLAGS = {"device": "cpu", "repeats": 3, "minutes": 600.0}

processes = multiprocessing.get_context("spawn")
_held = SimpleNamespace()  # of such a process


class Measured(NamedTuple):
    """What a formulation needed, and what its first call returned."""

    seconds: float  # median
    bytes: int
    result: np.ndarray


def _most_bytes() -> int:
    """Return how much memory this process has had at most, on the GPU if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()  # of Linux
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _begin(make: Make, device: str, threads: int) -> None:
    """Make a call and call it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pick_device(device)
    _held.before = _most_bytes()
    _held.seconds = []
    _held.call = make()
    _held.result = _held.call().cpu().numpy()


def _again() -> Measured:
    """Time more calls, of TURN seconds; return what all have needed since ``_begin``."""
    now = time.perf_counter()
    end = now + TURN
    while now <= end:
        start = now
        _held.call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        _held.seconds.append(now - start)
    size = _most_bytes() - _held.before
    return Measured(statistics.median(_held.seconds), size, _held.result)


def difference(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of other labels; of numbers, the largest difference by the largest one."""
    if exact.dtype.kind in "iu":
        return float((found != exact).mean())
    return float(abs(found - exact).max() / abs(exact).max())


def program(name: str, arguments: list[str]) -> Call:
    """Return a call of a program's ``main``."""

    def call():
        importlib.import_module(name).main(arguments)
        return torch.ones(1)

    return call


def row(*cells: str | int) -> None:
    """Print a row of a table."""
    print(f"{cells[0]:54}" + "".join(f"{cell:>12}" for cell in cells[1:]), flush=True)


def read_flags(
    docstring: str, arguments: list[str] | None, flags: dict[str, Any]
) -> argparse.Namespace:
    """Return the values of flags, of which these are the defaults; a list takes one or more."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=docstring, formatter_class=form)
    for name, default in flags.items():
        one, nargs = (default[0], "+") if isinstance(default, list) else (default, None)
        parser.add_argument(f"--{name}", type=type(one), nargs=nargs, default=default)
    return parser.parse_args(arguments)


class Bench:
    """Measures, and prints a table.

    Args:
        docstring: of the program, for its ``--help``.
        arguments: of its command line.
        tolerance: largest :func:`difference` from the first formulation.
        flags: more of them, and other defaults, see :func:`read_flags`.
    """

    def __init__(
        self,
        docstring: str,
        arguments: list[str] | None = None,
        tolerance: float = math.inf,
        **flags: Any,
    ) -> None:
        flags = {**FLAGS, "threads": torch.get_num_threads(), **flags}
        self.args = read_flags(docstring, arguments, flags)
        self.tolerance = tolerance
        self.deadline = time.monotonic() + 60 * self.args.minutes
        self.device = pick_device(self.args.device)
        self.on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"
        print(f"{name}, {self.args.threads} threads, PyTorch {torch.__version__}")
        row("", "seconds", "a second", "ratio", "MiB", "differs")

    def compare(self, name: str, ways: dict[str, Make], amount: float = 1) -> dict[str, Measured]:
        """Print a row of each formulation; return those that ended in time, by name.

        Ratio and difference are those to the first of them.

        Args:
            name: of what all of them compute.
            ways: formulations by name.
            amount: of things that a call works on, for the rate.
        """
        found: dict[str, Measured] = {}
        for group in [[way] for way in ways] if self.on_gpu else [list(ways)]:
            try:
                found |= self._measure({way: ways[way] for way in group})
            except (multiprocessing.TimeoutError, torch.OutOfMemoryError) as reason:
                row(f"{name}, {' and '.join(group)}", type(reason).__name__)
                continue
            first = next(iter(found.values()))
            for way in group:
                one = found[way]
                off = difference(one.result, first.result)
                rates = f"{amount / one.seconds:.4g}", f"{one.seconds / first.seconds:.2f}"
                size = f"{one.bytes / 2**20:.0f}"
                row(f"{name}, {way}", f"{one.seconds:.4g}", *rates, size, f"{off:.1e}")
                if off > self.tolerance:
                    raise SystemExit(f"The results differ by more than {self.tolerance}.")
        return found

    def _measure(self, ways: dict[str, Make]) -> dict[str, Measured]:
        with ExitStack() as stack:
            pools = {way: stack.enter_context(processes.Pool(1)) for way in ways}

            def ask(way, function, *arguments):
                left = self.deadline - time.monotonic()
                return pools[way].apply_async(function, arguments).get(left)

            for way, make in ways.items():
                ask(way, _begin, make, str(self.device), self.args.threads)
            for _ in range(self.args.repeats):
                found = {way: ask(way, _again) for way in ways}
        return found
