"""Benchmarks measure what the programs do, and say what they left out."""

import numpy as np
import pytest
import torch

from benchmarks import gpu, steps
from benchmarks.kernels import count
from net import irn_loss
from net.recipes import MODELS

TINY = ["--tiny", "--device", "cpu", "--repeats", "1", "--classes", "7", "--threads", "1"]


@pytest.fixture(autouse=True)
def settings_of_torch():
    """Measuring sets threads and algorithms of the whole process."""
    threads, tuned = torch.get_num_threads(), torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = tuned, tf32


def test_gpu_measures_every_step_in_every_variant(capsys, monkeypatch):
    monkeypatch.setattr(steps, "PRESENT", (0, 2))
    gpu.main(TINY)
    out = capsys.readouterr().out
    lines = {line[:14].strip().rstrip(",:"): line for line in out.splitlines()}
    for step in steps.STEPS:
        assert step in " ".join(lines)
    rows = [line for line in out.splitlines() if "   " in line and line[:3] in "1.1 2.1 3.1 3.2"]
    assert not any("memory" in row or "skipped" in row for row in rows)
    assert "hours of a whole run" in out
    assert all(name in out for name in ("voc", "coco", "float32", "TF32", "bfloat16"))


def test_what_does_not_fit_into_the_time_is_skipped(capsys):
    gpu.main([*TINY, "--minutes", "0", "--steps", "2.1 CRF"])
    assert capsys.readouterr().out.count("skipped") == 3


@pytest.mark.parametrize(
    ("found", "exact", "trains", "text"),
    [
        (np.array(2.02), np.array(2.0), True, "1.0e-02"),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]), False, "75.00 %"),
    ],
)
def test_agreement_with_float32(found, exact, trains, text):
    one, other = (steps.Measured(1, 1.0, 0, result) for result in (found, exact))
    assert gpu.agreement(one, other, trains) == text
    assert gpu.agreement(one, None, trains) == "-"


def test_hours_are_those_of_the_lists():
    rates = {(name, 21): 1.0 for name in steps.STEPS} | {("1.1 SIPE", 81): 2.0}
    voc, coco = (steps.hours(rates, dataset) for dataset in ("voc", "coco"))
    assert voc["1.1 SIPE"] == pytest.approx(5 * 10582 / 3600)
    assert voc["2.2 IRN"] == pytest.approx(3 * 10582 / 3600)
    recipe = MODELS["deeplabv2_resnet101"].training
    assert recipe.iterations * recipe.batch_size * recipe.accumulate == 200_000
    assert voc["3.1 DeepLab v2"] == pytest.approx(200_000 / 3600)
    assert coco["1.1 SIPE"] == pytest.approx(5 * 82081 / 2 / 3600)
    assert "2.2 IRN" not in coco


def test_only_trainings_search_for_algorithms(monkeypatch):
    for name, kind in steps.STEPS.items():
        torch.backends.cudnn.benchmark = False
        kind.make(steps.Job(torch.device("cpu"), "defaults", 1, 21, tiny=True))
        assert torch.backends.cudnn.benchmark == kind.trains, name


def test_groups_start_few_kernels():
    few, many = count(irn_loss.by_group)[0], count(irn_loss.by_offset)[0]
    assert 0 < few < many / 10
