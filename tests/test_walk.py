"""The walk against a dense float64 walk, its series on its interval, and the released numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(("radius", "size"), [(3, (1, 5)), (5, (6, 7)), (10, (4, 13))])
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


@pytest.mark.parametrize("n", [1, 4, 5, 256, 2**16])
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
    if n == 256:  # the published walk
        assert degree == 78


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 13),
    st.sampled_from([(5, 10), (3, 2), (4.5, 0.5), (10, 1)]),
    st.integers(0, 8),
    st.sampled_from([0, 1, 3]),  # open, noise, and weak edges
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**32 - 1),
)
def test_walk_against_dense_float64(p, h, w, how, exp_times, power, dtype, seed):
    radius, beta = how
    x, edge = random(p, 1, h, w, seed=seed), random(1, h, w, seed=seed + 1)
    edge = edge**power if power else edge * 0
    walked = propagate_to_edge(x.to(dtype), edge.to(dtype), radius, beta, exp_times)
    expected = dense_walk(x, edge, radius, beta, exp_times)
    assert walked.dtype == dtype
    assert walked.shape == expected.shape
    assert (walked - expected).abs().max() < 1e-5 * max(1, float(expected.max()))


def test_parity_random_walk():
    ref = parity("random_walk")
    how = [int(ref[name]) for name in ("radius", "beta", "exp_times")]
    exact = dense_walk(ref["x"], ref["edge"].double(), *how)
    walked = propagate_to_edge(ref["x"], ref["edge"], *how)
    assert relative(walked, exact) < 2e-6
    # The released code squares T in float32, which leaves its numbers 5.5e-5 from the exact walk.
    assert relative(walked, ref["walked"]) < relative(exact, ref["walked"]) + 2e-6 < 6e-5


def test_nothing_crosses_a_wall():
    x, wall = torch.ones(2, 1, 6, 8), torch.zeros(1, 6, 8)
    wall[:, :, 4] = 1
    x[:, :, :, 5:] = 0
    walked = propagate_to_edge(x, wall)
    assert not walked[..., 4:].any()
    torch.testing.assert_close(walked[..., :4], x[..., :4])
    assert not propagate_to_edge(x, torch.ones(1, 6, 8)).any()


def test_maps_walk_alike_in_every_form(monkeypatch):
    x, edge = random(2, 1, 9, 11), random(1, 9, 11, seed=1).requires_grad_()
    before = x.clone(), edge.detach().clone()
    together = propagate_to_edge(x, edge)
    assert not together.requires_grad
    assert all(map(torch.equal, before, (x, edge.detach())))
    forms = [torch.cat([propagate_to_edge(one, edge) for one in x])]
    for block in (64, 300):  # blocks of 12 and 60 of the 135 cells
        monkeypatch.setattr(walk, "BLOCK", block)
        forms.append(propagate_to_edge(x, edge))
    monkeypatch.undo()
    monkeypatch.setattr(walk._Walk, "shifting", walk._Walk.unfolding)
    for found in (*forms, propagate_to_edge(x, edge)):
        torch.testing.assert_close(found, together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("beta", "exp_times"), [(0, 8), (10, -1)])
def test_howwithout_a_walk_are_refused(beta, exp_times):
    with pytest.raises(ValueError, match="beta"):
        propagate_to_edge(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2), 5, beta, exp_times)


def test_parity_pseudo_label():
    ref = parity("pseudo_label")
    index, scores = refine_by_walk(ref["IS_CAM"], ref["edge"], tuple(ref["size"].tolist()))
    assert torch.equal(ref["keys"][index], ref["label"].long())
    assert float(scores.max()) == 1


@pytest.mark.parametrize("size", [(1, 1), (5, 18)])
def test_pseudo_label_of_nothing_is_background(size):
    edge = torch.zeros(1, *((side - 1) // 4 + 1 for side in size))
    index, scores = refine_by_walk(torch.zeros(3, *size), edge, size)
    assert index.shape == size
    assert not index.any()
    assert not scores.any()
