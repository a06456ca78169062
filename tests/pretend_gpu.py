"""GPUs that are none: tensors of the CPU that say ``cuda:N``, under CUDA's rules.

    with pretend_gpus(2) as gpus:
        make_cam.main([*flags, "--device", "cuda"])
    assert not gpus.waits

A storage carries its device as a mark, so C++ sees the CPU, and autograd and all operators run;
what Python asks, ``device``, ``is_cuda``, ``torch.cuda``, is answered for a GPU. A dispatch mode in
every thread marks what operators return, and raises a RuntimeError where CUDA would refuse an
operator or compute with what is not there yet. It counts what the processor would wait for, by file
and line.
"""

import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, partialmethod, wraps
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPOSITORY = Path(__file__).parent.parent
CPU = torch.device("cpu")
aten = torch.ops.aten
# Whose result has a size, or is a number, that the processor asks for.
ASKS = (
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave),
)
INDEXING = (aten.index, aten.index_put, aten.index_put_)
COPIED = ("tensor", "as_tensor")  # of numbers of the CPU
FACTORIES = (
    *("empty", "zeros", "ones", "full", "arange", "eye", "linspace", "rand", "randn", "randint"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like"),
)
METHODS = ("new_empty", "new_zeros", "new_ones", "new_full")


PLANES = (0, 2, 3)  # of a map (B, C, h, w), in which batch normalisation adds up


def _stats(x, eps):
    variance, mean = torch.var_mean(x, PLANES, correction=0)
    return mean, (variance + eps).rsqrt()


def _gather_stats(x, means, deviations, running_mean, running_var, momentum, eps, counts):
    shares = (counts / counts.sum())[:, None]
    mean = (means * shares).sum(0)
    variance = ((deviations**-2 - eps + (means - mean) ** 2) * shares).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (variance + eps).rsqrt()


def _centred(x, mean):
    return x - mean[:, None, None]


def _normalised(x, weight, bias, mean, deviation, eps):
    return _centred(x, mean) * (deviation * weight)[:, None, None] + bias[:, None, None]


def _reduce(grad, x, mean, deviation, weight, *asked):
    sums, products = grad.sum(PLANES), (grad * _centred(x, mean)).sum(PLANES)
    return sums, products, products * deviation, sums.clone()


def _gradient(grad, x, mean, deviation, weight, sums, products, counts):
    slope = (products / counts.sum() * deviation**2)[:, None, None]
    grad = _centred(grad, sums / counts.sum()) - _centred(x, mean) * slope
    return grad * (deviation * weight)[:, None, None]


# Of batch normalisation over several processes, which CUDA alone has.
KERNELS = {
    aten.batch_norm_stats: _stats,
    aten.batch_norm_gather_stats_with_counts: _gather_stats,
    aten.batch_norm_elemt: _normalised,
    aten.batch_norm_backward_reduce: _reduce,
    aten.batch_norm_backward_elemt: _gradient,
}


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """Return what all views of a tensor share, always the same object."""
    return tensor.untyped_storage()


def place_of(tensor: Tensor) -> torch.device:
    """Return where a tensor says that it lies."""
    return getattr(storage_of(tensor), "place", CPU)


def is_ours(path: Path) -> bool:
    """Tell whether a file is of this project, in whose folder an environment may lie."""
    return path.is_relative_to(REPOSITORY) and "site-packages" not in path.parts


class Gpus:
    """What the processor has waited for, and what it has asked for and not waited for yet.

    Attributes:
        waits: times that it waited for a GPU, by ``file:line`` of the project.
    """

    def __init__(self, number: int) -> None:
        self.number, self.process = number, os.getpid()
        self.waits: Counter[str] = Counter()
        self.current = threading.local()  # of a thread: its device, and where C++ makes tensors
        self.asked = self.done = 0  # copies that do not wait, in their order
        self.sources: list[tuple[int, Tensor, Tensor]] = []  # pinned ones, and their content

    def device(self, wanted: str | int | torch.device) -> torch.device:
        """Return a device with its number; one that is not there raises a RuntimeError."""
        wanted = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
        if wanted.type == "cpu":
            return CPU
        index = getattr(self.current, "index", 0) if wanted.index is None else wanted.index
        if index >= self.number:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def mark(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Say where a new tensor lies."""
        if device.type == "cuda" and os.getpid() != self.process:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        storage_of(tensor).place = device
        return tensor

    def wait(self) -> None:
        """Count that the processor waits for all that it has asked for."""
        frames = [frame for frame, _ in traceback.walk_stack(sys._getframe())]
        ours = (f for f in frames if is_ours(Path(f.f_code.co_filename)))
        frame = next((f for f in ours if f.f_code.co_filename != __file__), frames[-1])
        path = os.path.relpath(frame.f_code.co_filename, REPOSITORY)
        self.waits[f"{path}:{frame.f_lineno}"] += 1
        self.finish(self.asked)

    def finish(self, ticket: int) -> None:
        """Take copies for done, whose sources must be as they were."""
        self.done = max(self.done, ticket)
        for number, source, content in self.sources:
            if number <= self.done and not torch.equal(source, content):
                raise RuntimeError("A pinned tensor was changed while it was being copied.")
        self.sources = [source for source in self.sources if source[0] > self.done]

    def copied(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        """Note a copy between devices, ``target`` holding it already."""
        on_cpu = source if place_of(source) == CPU else target
        if not (non_blocking and getattr(storage_of(on_cpu), "pinned", False)):
            return self.wait()
        self.asked += 1
        if on_cpu is source:
            self.sources.append((self.asked, source.detach(), source.detach().clone()))
        else:
            storage_of(target).ready = self.asked

    def check_ready(self, tensor: Tensor) -> None:
        """Refuse a tensor of the CPU that a GPU may still be writing."""
        if getattr(storage_of(tensor), "ready", 0) > self.done:
            raise RuntimeError("A tensor is read before its copy from the GPU is waited for.")


class Rules(TorchDispatchMode):
    """CUDA's rules, in one thread."""

    def __init__(self, gpus: Gpus) -> None:
        super().__init__()
        self.gpus = gpus

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # where composites are not taken apart before
            with self, torch._C._DisableAutocast():
                found = call.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {place_of(tensor) for tensor in tensors}
        for tensor in tensors:
            self.gpus.check_ready(tensor)
        device = next((place for place in places if place != CPU), None)
        device = device or getattr(self.gpus.current, "made_on", None)
        if device is None or call.namespace == "c10d":
            return call(*args, **kwargs)
        known = call.overloadpacket
        if known is aten.copy_ and len(places) > 1:
            call(*args, **kwargs)
            non_blocking = bool(args[2]) if len(args) > 2 else kwargs.get("non_blocking", False)
            self.gpus.copied(args[1], args[0], non_blocking)
            return args[0]
        if len(places) > 1:
            self._check_mixed(call, args, tensors)
        elif known in ASKS or (known in INDEXING and _asks_for_masked(args)):
            self.gpus.wait()
        result = KERNELS.get(known, call)(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and place_of(leaf) == CPU:
                self.gpus.mark(leaf, device)
        return result

    def _check_mixed(self, call, args: tuple, tensors: list[Tensor]) -> None:
        """Refuse tensors of several devices but for indices and single numbers of the CPU."""
        places = {str(place_of(tensor)) for tensor in tensors}
        on_cpu = [tensor for tensor in tensors if place_of(tensor) == CPU]
        numbers = [one for one in on_cpu if not one.ndim]
        may_be_mixed = len(places) == 2 and on_cpu
        if may_be_mixed and call.overloadpacket in INDEXING and place_of(args[0]) != CPU:
            indices = [one for one in args[1] if one is not None]
            goes_up = any(place_of(one) == CPU for one in indices)  # from pageable memory
            if goes_up or _asks_for_masked(args):
                self.gpus.wait()
            may_be_mixed = all(one.ndim == 0 or place_of(one) != CPU for one in args[2:3])
        elif may_be_mixed:
            declared = zip(args, call._schema.arguments, strict=False)
            written = [one for one, how in declared if how.alias_info and how.alias_info.is_write]
            is_written = any(one is other for one in numbers for other in written)
            may_be_mixed = torch.Tag.pointwise in call.tags and not is_written
            may_be_mixed &= len(numbers) == len(on_cpu)
        if not may_be_mixed:
            found = ", ".join(sorted(places))
            raise RuntimeError(
                f"{call}: expected all tensors to be on the same device, found {found}"
            )


def _asks_for_masked(args: tuple) -> bool:
    """Return whether an index is a mask, whose places are counted first; one value needs none."""
    masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not (len(args) > 2 and args[2].numel() == 1)


class Event:
    """Of a stream, of which every device has one here."""

    def __init__(self, gpus: Gpus, **_) -> None:
        self.gpus = gpus

    def record(self) -> None:
        self.ticket = self.gpus.asked

    def synchronize(self) -> None:
        self.gpus.finish(self.ticket)


def _cuda(gpus: Gpus) -> dict[str, Callable]:
    """Return what stands in the place of functions of torch.cuda."""
    return {
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: gpus.number,
        "current_device": lambda: getattr(gpus.current, "index", 0),
        "set_device": lambda device: vars(gpus.current).update(index=gpus.device(device).index),
        "get_device_name": lambda *_: "a pretended GPU",
        "mem_get_info": lambda *_: (1 << 34, 1 << 34),
        "manual_seed_all": lambda seed: None,
        "synchronize": lambda *_: gpus.wait(),
        "Event": partial(Event, gpus),
    }


def _tensor_methods(gpus: Gpus) -> dict[str, object]:
    """Return what stands in the place of methods of tensors."""
    plain_to, plain_numpy, plain_list = Tensor.to, Tensor.numpy, Tensor.tolist

    def to(self, *args, copy=False, **kwargs):
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        here = place_of(self)
        there = here if device is None else gpus.device(device)
        layout = torch.preserve_format if layout is None else layout
        how = {"dtype": dtype or self.dtype, "memory_format": layout}
        if here == there:
            return plain_to(self, copy=copy, **how)
        result = gpus.mark(plain_to(self, copy=True, **how), there)
        storage_of(result).pinned = non_blocking and there == CPU
        gpus.copied(self, result, non_blocking)
        return result

    def pin_memory(self):
        result = self.clone()
        storage_of(result).pinned = True
        return result

    def numpy(self, *args, **kwargs):
        if place_of(self) != CPU:
            raise TypeError(f"can't convert {place_of(self)} device type tensor to numpy.")
        gpus.check_ready(self)
        return plain_numpy(self, *args, **kwargs)

    return {
        "device": property(place_of),
        "is_cuda": property(lambda self: place_of(self) != CPU),
        "to": to,
        "cuda": lambda self, device="cuda", **how: self.to(device, **how),
        "cpu": lambda self: self.to("cpu"),
        "pin_memory": pin_memory,
        "is_pinned": lambda self: getattr(storage_of(self), "pinned", False),
        "numpy": numpy,
        "__array__": lambda self, *args, **kwargs: numpy(self),
        "tolist": lambda self: plain_list(self.cpu()),
        "new_tensor": lambda self, data: torch.tensor(data, dtype=self.dtype, device=self.device),
    }


def _factory(gpus: Gpus, make: Callable, copies: bool) -> Callable:
    """Return a function that makes tensors, and takes the device of a GPU."""

    @wraps(make)
    def made(*args, device=None, **kwargs):
        result = make(*args, **kwargs)
        if device is None or gpus.device(device) == place_of(result):
            return result
        if copies:
            return result.to(device)
        return gpus.mark(result, gpus.device(device))

    return made


def _grouped(plain: Callable, lists: list[list[Tensor | None]], with_indices: bool) -> dict:
    """Return the tensors of one optimiser by device and dtype; all of them lie on one device."""
    groups = plain(lists, with_indices)
    return {(place_of(found[0][0][0]), dtype): found for (_, dtype), found in groups.items()}


@contextmanager
def pretend_gpus(number: int = 1) -> Iterator[Gpus]:
    """Give this process so many GPUs, which those that are forked from it cannot use."""
    gpus = Gpus(number)
    with ExitStack() as stack:

        def replace(owner, **instead) -> None:
            for name, one in instead.items():
                create = name not in vars(owner)
                stack.enter_context(mock.patch.object(owner, name, one, create=create))

        plain_autocast, plain_run = torch.autocast, threading.Thread.run
        plain_start, plain_init = dist.init_process_group, DistributedDataParallel.__init__
        plain_pre_forward = DistributedDataParallel._pre_forward
        plain_groups = torch._C._group_tensors_by_device_and_dtype

        def run_thread(thread):
            with Rules(gpus):
                plain_run(thread)

        def in_buckets(wrapper, method, *args, **kwargs):
            """C++ makes buckets of gradients where these lie."""
            module = args[0] if method is plain_init else wrapper.module
            device = next(module.parameters()).device
            gpus.current.made_on = device if device != CPU else None
            try:
                return method(wrapper, *args, **kwargs)
            finally:
                gpus.current.made_on = None

        replace(Tensor, **_tensor_methods(gpus))
        replace(torch._C, _group_tensors_by_device_and_dtype=partial(_grouped, plain_groups))
        replace(torch.UntypedStorage, device=property(lambda self: getattr(self, "place", CPU)))
        replace(torch.cuda, **_cuda(gpus))
        replace(threading.Thread, run=run_thread)
        replace(torch, autocast=lambda kind, *how, **more: plain_autocast("cpu", *how, **more))
        stack.enter_context(mock.patch.dict(os.environ, PYTORCH_DDP_USE_SIDE_STREAM="0"))
        stream = SimpleNamespace(is_capturing=lambda: False)
        replace(torch.accelerator, current_stream=lambda: stream)
        replace(DistributedDataParallel, __init__=partialmethod(in_buckets, plain_init))
        replace(DistributedDataParallel, _pre_forward=partialmethod(in_buckets, plain_pre_forward))
        replace(dist, init_process_group=lambda _, **how: plain_start("gloo", **how))
        for names, owner in ((COPIED + FACTORIES, torch), (METHODS, Tensor)):
            made = {n: _factory(gpus, getattr(owner, n), n in COPIED) for n in names}
            replace(owner, **made)
        stack.enter_context(Rules(gpus))
        yield gpus
