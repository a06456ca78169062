"""The walk against a dense float64 walk, its series on its interval, and the released numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.reference import affinity_matrix, dense_walk, parity, relative
from tool import walk
from tool.walk import SERIES_ERROR, power_series, propagate_to_edge, refine_by_walk


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_affinity(edge: np.ndarray, y: int, x: int, dy: int, dx: int) -> float:
    """1 - largest edge on the path from (y, x), cell by cell; edge = 1 outside the map."""
    largest = 0.0
    for v in range(min(0, dy), max(0, dy) + 1):
        for u in range(min(0, dx), max(0, dx) + 1):
            if (dy * u - dx * v) ** 2 / (dy**2 + dx**2) < 1:
                inside = 0 <= y + v < edge.shape[0] and 0 <= x + u < edge.shape[1]
                largest = max(largest, edge[y + v, x + u] if inside else 1.0)
    return 1 - largest


@pytest.mark.parametrize(("radius", "size"), [(5, (1, 1)), (3, (1, 5)), (5, (6, 7)), (10, (4, 13))])
def test_dense_affinities_by_loops(radius, size):
    """The dense walk is what the walk is compared with, so its matrix is checked cell by cell."""
    h, w = size
    edge = random(1, h, w) ** 3
    expected = np.eye(h * w)
    for i, j in itertools.combinations(range(h * w), 2):
        dy, dx = j // w - i // w, j % w - i % w
        if dy**2 + dx**2 < radius**2:
            affinity = plain_affinity(edge[0].numpy(), i // w, i % w, dy, dx)
            expected[i, j] = expected[j, i] = affinity
    assert np.array_equal(affinity_matrix(edge, radius).numpy(), expected)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 256, 4096, 2**16])
def test_power_series_on_its_interval(n):
    lowest, coefficients = power_series(n)
    degree = lowest + 2 * (len(coefficients) - 1)
    assert degree <= min(n, math.sqrt(2 * n * math.log(2 / SERIES_ERROR)) + 1)
    theta = np.linspace(0, np.pi, 4001)
    series = sum(c * np.cos((lowest + 2 * i) * theta) for i, c in enumerate(coefficients))
    assert np.abs(series - np.cos(theta) ** n).max() <= 2 * SERIES_ERROR
    assert sum(coefficients) == pytest.approx(1, abs=1e-12)
    if n == 4:  # x^4 = 3/8 + T_2 / 2 + T_4 / 8
        assert coefficients == pytest.approx((3 / 8, 1 / 2, 1 / 8))


def test_power_series_of_the_published_walk_has_78_terms():
    assert 2 * len(power_series(256)[1]) - 2 == 78


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 4), (7, 9), (4, 13)])
def test_walk_against_dense_float64(size):
    x, edge = random(3, 1, *size), random(1, *size, seed=1) ** 3
    for radius, beta, exp_times in ((5, 10, 8), (5, 0.5, 3), (3, 2, 0), (4.5, 10, 1), (10, 4, 5)):
        expected = dense_walk(x, edge, radius, beta, exp_times)
        walked = propagate_to_edge(x, edge, radius, beta, exp_times)
        assert walked.shape == (3, 1, *size)
        assert relative(walked, expected) < 5e-6
        single = propagate_to_edge(x.float()[:, 0], edge.float()[0], radius, beta, exp_times)
        assert single.dtype == torch.float32
        assert relative(single, expected) < 5e-6


def test_parity_random_walk():
    ref = parity("random_walk")
    settings = [int(ref[name]) for name in ("radius", "beta", "exp_times")]
    exact = dense_walk(ref["x"], ref["edge"].double(), *settings)
    walked = propagate_to_edge(ref["x"], ref["edge"], *settings)
    assert relative(walked, exact) < 2e-6
    # The released code squares T in float32, which leaves its numbers 5.5e-5 from the exact walk.
    assert relative(walked, ref["walked"]) < relative(exact, ref["walked"]) + 2e-6 < 6e-5


def test_walk_of_zeros_of_walls_and_of_a_constant():
    x = torch.ones(2, 1, 6, 8)
    assert not propagate_to_edge(torch.zeros(2, 1, 6, 8), torch.rand(1, 6, 8)).any()
    assert not propagate_to_edge(x, torch.ones(1, 6, 8)).any()
    torch.testing.assert_close(propagate_to_edge(x, torch.zeros(1, 6, 8)), x)
    wall = torch.zeros(1, 6, 8)
    wall[:, :, 4] = 1  # nothing crosses it
    x[:, :, :, 5:] = 0
    walked = propagate_to_edge(x, wall)
    assert not walked[..., 4:].any()
    torch.testing.assert_close(walked[..., :4], x[..., :4])


def test_walk_changes_neither_its_arguments_nor_needs_a_gradient():
    x, edge = random(2, 1, 6, 7), random(1, 6, 7, seed=1).requires_grad_()
    before = x.clone(), edge.detach().clone()
    walked = propagate_to_edge(x, edge)
    assert not walked.requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(edge.detach(), before[1])
    assert propagate_to_edge(x.half(), edge.half()).dtype == torch.float32


def test_maps_walk_alike_alone_together_and_in_blocks(monkeypatch):
    x, edge = random(5, 1, 9, 11), random(1, 9, 11, seed=1)
    together = propagate_to_edge(x, edge)
    alone = torch.cat([propagate_to_edge(one, edge) for one in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    for block in (1, 64, 300):  # blocks of 1, 12 and 60 of the 135 cells
        monkeypatch.setattr(walk, "BLOCK", block)
        torch.testing.assert_close(propagate_to_edge(x, edge), together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 11)])
def test_both_forms_of_a_product_agree(size, monkeypatch):
    x, edge = random(2, 1, *size), random(1, *size, seed=1)
    shifted = propagate_to_edge(x, edge)
    monkeypatch.setattr(walk._Walk, "shifting", walk._Walk.unfolding)
    torch.testing.assert_close(propagate_to_edge(x, edge), shifted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("beta", "exp_times"), [(0, 8), (10, -1)])
def test_settings_without_a_walk_are_refused(beta, exp_times):
    with pytest.raises(ValueError, match="beta"):
        propagate_to_edge(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2), 5, beta, exp_times)


def test_parity_pseudo_label():
    ref = parity("pseudo_label")
    index, scores = refine_by_walk(ref["IS_CAM"], ref["edge"], tuple(ref["size"].tolist()))
    assert torch.equal(ref["keys"][index], ref["label"].long())
    assert float(scores.max()) == 1


def test_pseudo_label_of_nothing_is_background():
    for size in ((1, 1), (5, 18)):
        edge = torch.zeros(1, *((side - 1) // 4 + 1 for side in size))
        index, scores = refine_by_walk(torch.zeros(3, *size), edge, size)
        assert index.shape == size
        assert not index.any()
        assert not scores.any()
        index, _ = refine_by_walk(torch.stack([torch.zeros(size), torch.ones(size)]), edge, size)
        assert (index == 1).all()


def test_defaults_are_those_of_the_released_code():
    assert (walk.WALK_RADIUS, walk.WALK_BETA, walk.WALK_EXP_TIMES) == (5, 10, 8)
