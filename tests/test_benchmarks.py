"""Benchmarks measure what programs do, in processes of their own, and say what they left out."""

import contextlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import CONTEXT

from benchmarks import gpu, launches, measure, plain, steps, throughput
from tool.lattice import build_lattice

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--repeats", "1", "--threads", "1"]
SIZES = {
    "WINDOW": 96,
    "CROP_V2": 33,
    "CROP_V1": 65,
    "PICTURE": (60, 80),
    "WIDTH": 4,
    "SHAPE": {"width": 4, "blocks": (1, 1, 1, 1)},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Steps are small; measuring sets threads and algorithms of the whole process."""
    for name, value in SIZES.items():
        monkeypatch.setattr(steps, name, value)
    monkeypatch.setattr(measure, "TURN", 0)
    for owner, name in ((torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32")):
        monkeypatch.setattr(owner, name, False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Here:
    """Stands for a process, and does its work in this one."""

    def __init__(self, number: int) -> None:
        self.held = SimpleNamespace()

    def apply_async(self, function, arguments):
        measure._held = self.held
        result = function(*arguments)
        return SimpleNamespace(get=lambda seconds: result)


@pytest.fixture
def in_this_process(monkeypatch):
    pool = lambda number: contextlib.nullcontext(Here(number))  # noqa: E731
    monkeypatch.setattr(measure, "processes", SimpleNamespace(Pool=pool))


def hoard(mebibytes: int) -> measure.Call:
    """Return a call whose process holds so much, and which says what it found."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    held = torch.ones(mebibytes, 2**18)
    return lambda: torch.tensor([before, bool(held[0, 0])]).int()


def test_a_formulation_has_a_process_of_its_own_whose_memory_is_counted_from_its_beginning(
    capsys, monkeypatch
):
    monkeypatch.setattr(measure, "processes", CONTEXT)
    bench = measure.Bench("", TINY)
    found = bench.compare("hoarding", {"little": partial(hoard, 1), "much": partial(hoard, 200)})
    little, much = found.values()
    assert 195 < (much.bytes - little.bytes) / 2**20 < 230
    assert little.result.tolist() == much.result.tolist() == [0, 1]
    assert "hoarding, much" in capsys.readouterr().out


@pytest.mark.usefixtures("in_this_process")
def test_a_card_is_told_every_step_in_every_variant(capsys):
    # PyTorch 2.14 corrupts memory in the backward pass of a DeepLab v1 as narrow as this one.
    shown = [step for step in steps.STEPS if step != "3.1 DeepLab v1"]
    throughput.main([*TINY, "--steps", *shown], **{**gpu.SHOWN, "repeats": 1})
    out = capsys.readouterr().out
    for step in shown:
        rows = [line for line in out.splitlines() if line.startswith(f"{step},")]
        expected = 6 if steps.STEPS[step].with_classes else 3
        assert len(rows) == expected, step
        assert all(len(row[54:].split()) == 5 for row in rows), rows
    assert {"voc, float32", "coco, bfloat16"} < {line.split(":")[0] for line in out.splitlines()}


def test_what_does_not_fit_into_the_time_is_skipped(capsys):
    """Also where the time ends while it is being measured: a process takes longer to begin."""
    throughput.main([*TINY, "--minutes", "0.005", "--steps", "2.1 CRF"])
    assert "TimeoutError" in capsys.readouterr().out


def test_cudnn_searches_for_algorithms_in_trainings_alone():
    searching = []
    for name, step in steps.STEPS.items():
        torch.backends.cudnn.benchmark = False  # as in a new process
        step.make(steps.Job(CPU, batch=2))
        searching += [name] * torch.backends.cudnn.benchmark
    assert searching == ["1.1 SIPE", "2.2 IRN", "3.1 DeepLab v2", "3.1 DeepLab v1"]


def test_the_picture_of_the_crf_has_a_sky(monkeypatch):
    """In which thousands of pixels share a vertex, as in photographs."""
    monkeypatch.setattr(steps, "PICTURE", (375, 500))
    colours = torch.from_numpy(steps.picture()).permute(2, 0, 1).float()
    y, x = torch.meshgrid(torch.arange(375.0), torch.arange(500.0), indexing="ij")
    features = torch.cat([torch.stack([x, y]) / 50, colours / 5])
    lattice = build_lattice(features.flatten(1))
    assert len(lattice.starts) > 40_000
    assert lattice.starts.diff().max() > 4_000


@pytest.mark.usefixtures("in_this_process")
def test_other_results_end_the_comparison():
    bench = measure.Bench("", TINY, tolerance=0.1)
    with pytest.raises(SystemExit):
        bench.compare("numbers", {n: partial(hoard, n) for n in (1, 2)})


def test_difference():
    assert measure.difference(np.array([2.0, -1.02]), np.array([2.0, -1.0])) == pytest.approx(0.01)
    assert measure.difference(np.array([1, 2, 3]), np.array([1, 0, 3])) == pytest.approx(1 / 3)


def test_hours_are_those_of_the_lists(capsys, monkeypatch):
    def a_picture_a_second(bench, name, ways, amount):
        return {way: measure.Measured(amount, 0, np.zeros(1)) for way in ways}

    monkeypatch.setattr(measure.Bench, "compare", a_picture_a_second)
    throughput.main(TINY)
    lines = capsys.readouterr().out.splitlines()
    voc = next(line for line in lines if line.startswith("voc, plain") and "; " in line)
    coco = next(line for line in lines if line.startswith("coco, plain") and "; " in line)
    hours = {"1.1 SIPE": 5 * 10582, "2.2 IRN": 3 * 10582, "3.1 DeepLab v2": 200_000}
    assert all(f"{step} {pictures / 3600:.2f}" in voc for step, pictures in hours.items())
    assert f"1.1 SIPE {5 * 82081 / 3600:.2f}" in coco


@pytest.mark.parametrize(("make", "other"), [(steps.sipe, 1e-5), (steps.maps, 0.01)])
def test_the_plain_formulation_computes_the_same(make, other):
    results = []
    for more in ((), (plain.Net,)):
        torch.manual_seed(0)
        results.append(make(steps.Job(CPU, batch=2), *more)().numpy())
    assert measure.difference(*results) <= other


# Kernels that a step starts at the most, whatever its sizes; DeepLab v2 here has 4 blocks of 33.
KERNELS = {"1.2 maps": 1200, "2.2 IRN": 1200, "3.1 DeepLab v2": 650}


def test_launches_products_and_bytes_of_every_step_are_counted(capsys):
    launches.main(["--steps", *KERNELS, "--launch", "1000", "--tf32", "1e-6", "--bandwidth", "1e9"])
    lines = capsys.readouterr().out.splitlines()[1:]
    found = {
        line[:54].strip(): [float(cell.replace(",", "")) for cell in line[54:].split()]
        for line in lines
    }
    assert found.keys() == KERNELS.keys()
    for name, (kernels, _, _, tf32, _, host) in found.items():
        assert KERNELS[name] / 2 < kernels <= KERNELS[name], name
        assert host == kernels
        assert tf32 > 0, name
    assert torch.autocast.__module__.startswith("torch")
    assert KERNELS.keys() < set(launches.COUNTED)


def test_products_and_bytes_of_operators_are_those_of_the_formula():
    net, x = torch.nn.Conv2d(3, 8, 3, device="meta"), torch.empty(2, 3, 10, 10, device="meta")
    x.requires_grad_()
    with launches.Count() as found:
        net(x).sum().backward()
    forward, _, *_, backward = found.work
    products = 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)
    values = x.numel() + net.weight.numel() + 8 + 2 * 8 * 8 * 8
    assert forward == (2, products, 4 * values)
    assert backward[:2] == (3, 2 * products)
