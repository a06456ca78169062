"""The pretended GPU refuses what CUDA refuses, and counts what the processor waits for."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data.loaders import one_by_one
from tests.pretend_gpu import pretend_gpus
from tool.crf import crf_inference

SAME = "expected all tensors to be on the same device"


@pytest.fixture
def gpus():
    """Two GPUs."""
    with pretend_gpus(2) as pretended:
        yield pretended


@pytest.fixture
def x(gpus) -> torch.Tensor:
    """A row of three numbers on the first GPU."""
    return torch.arange(3.0, device="cuda")


def used_again(x):
    pinned = x.cpu().pin_memory()
    pinned.to("cuda", non_blocking=True)
    pinned.add_(1)
    torch.cuda.synchronize()


def in_forked_worker(x):
    def refine(seed):
        return crf_inference(None, torch.ones(2, 4, 4, device="cuda"))

    list(one_by_one(refine, [0], num_workers=1))


def on_the_first_gpu(x):
    """Data parallel training of the second process, with the first one's device."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        net = DistributedDataParallel(nn.Linear(3, 1).to("cuda:1"), device_ids=[0])
        net(x.to("cuda:1"))
    finally:
        dist.destroy_process_group()


# By name a fault that a careless change makes, and what the message says.
FAULTS = {
    "a network that was not moved": (lambda x: nn.Linear(3, 1)(x), SAME),
    "a picture that was not moved": (lambda x: nn.Linear(3, 1).to("cuda")(x.cpu()), SAME),
    "a constant without device": (lambda x: x + torch.ones(3), SAME),
    "both in one tensor": (lambda x: torch.cat([x, torch.ones(3)]), SAME),
    "two GPUs": (lambda x: x + x.to("cuda:1"), SAME),
    "select by an index of the CPU": (lambda x: x.index_select(0, torch.tensor([0])), SAME),
    "an index of the GPU on the CPU": (lambda x: torch.ones(3)[x.long()], SAME),
    "a number of the CPU that is written": (lambda x: torch.tensor(0.0).add_(x[0]), SAME),
    "numpy of a GPU": (lambda x: x.numpy(), "can't convert cuda:0"),
    "a download read at once": (lambda x: x.to("cpu", non_blocking=True).numpy(), "waited for"),
    "a pinned buffer used again": (used_again, "changed while"),
    "the CRF in a forked worker": (in_forked_worker, "forked subprocess"),
    "device_ids of another process": (on_the_first_gpu, SAME),
    "a GPU that is not there": (lambda x: x.to("cuda:2"), "invalid device ordinal"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_cuda_refuses_are_refused(x, fault):
    make, message = FAULTS[fault]
    with pytest.raises((RuntimeError, TypeError), match=message):
        make(x)


# What is waited for, how often.
WAITS = {
    "a number": (lambda x: [float(x[0]) for _ in range(5)], 5),
    "places of a mask": (lambda x: x[x > 0], 1),
    "a value under a mask": (lambda x: x.__setitem__(x > 0, 0), 0),
    "an index of the CPU": (lambda x: x[torch.tensor([0])], 1),
    "an index of a list": (lambda x: x[[0, 2]], 1),
    "an upload": (lambda x: torch.ones(3).to("cuda", non_blocking=True), 1),
    "a pinned upload": (lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True), 0),
    "a pinned upload that waits": (lambda x: torch.ones(3).pin_memory().to("cuda"), 1),
    "numbers of the program": (lambda x: torch.tensor([1.0, 2.0], device="cuda"), 1),
    "a copy into the GPU": (lambda x: x.copy_(torch.ones(3)), 1),
    "a list": (lambda x: x.tolist(), 1),
    "a number of the CPU in a sum": (lambda x: x + torch.tensor(1.0), 0),
    "a download": (lambda x: x.to("cpu", non_blocking=True), 0),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", WAITS)
def test_waits_are_counted_where_they_are_made(gpus, what, inference):
    work, times = WAITS[what]
    with torch.inference_mode(inference):
        x = torch.arange(3.0, device="cuda")
        work(x)
    assert sum(gpus.waits.values()) == times
    assert all(place.startswith("tests/test_pretend_gpu.py:") for place in gpus.waits)


def test_an_event_says_when_a_download_is_there(x):
    event = torch.cuda.Event()
    first = x.to("cpu", non_blocking=True)
    event.record()
    second = x.to("cpu", non_blocking=True)
    event.synchronize()
    assert first.numpy().tolist() == [0, 1, 2]
    with pytest.raises(RuntimeError, match="waited for"):
        second.numpy()


def test_results_are_those_of_the_cpu_and_lie_where_they_should(gpus):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(6, 2)), torch.randn(2, 3, 8, 8)
    (expected,) = torch.autograd.grad(net(x).square().sum(), net[0].weight)
    optimizer = torch.optim.AdamW(net.to("cuda:1").parameters(), fused=True)
    loss = net(x.to("cuda:1")).square().sum()
    loss.backward()
    assert loss.device == net[0].weight.grad.device == torch.device("cuda", 1)
    assert torch.equal(net[0].weight.grad.cpu(), expected)
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    assert optimizer.state[net[0].weight]["exp_avg"].is_cuda
    with torch.autocast("cuda", torch.bfloat16):
        assert net(x.to("cuda:1")).dtype == torch.bfloat16


def test_nothing_is_pretended_afterwards():
    with pretend_gpus():
        x = torch.ones(1, device="cuda")
    assert torch.ones(1).device.type == x.device.type == "cpu"
    assert torch.cuda.is_available() == bool(torch.cuda.device_count())
