"""The lattice against one of dictionaries in float64, and by hand."""

import math

import numpy as np
import pytest
import torch

from tests.pretend_gpu import pretend_gpus
from tests.reference import plain_filter, plain_kernel
from tool.lattice import LONGEST, TooWideError, build_lattice, normalise


@pytest.mark.parametrize(
    ("d", "spread", "narrow"),
    # Few cells wide along the last axis: a key without room for neighbours would collide.
    [(1, 4, 1), (2, 20, 1), (5, 6, 1), (2, 3, 0.01), (5, 3, 0.01)],
)
def test_filter_equals_the_dictionary_lattice(d, spread, narrow):
    rng = np.random.default_rng(d)
    features = (rng.standard_normal((d, 150)) * spread).astype(np.float32)
    features[-1] *= narrow
    values = rng.random((150, 4)).astype(np.float32)
    lattice = build_lattice(torch.from_numpy(features))
    expected = plain_filter(features, values.astype(np.float64))
    np.testing.assert_allclose(lattice.filter(torch.from_numpy(values)), expected, rtol=2e-5)
    kernel = normalise(lattice)
    expected = plain_kernel(features)(values.astype(np.float64))
    np.testing.assert_allclose(kernel.filter(torch.from_numpy(values)), expected, rtol=2e-5)


def lengths(starts: torch.Tensor, number: int) -> torch.Tensor:
    """Return how long rows are of which ``number`` things are."""
    return torch.cat([starts, starts.new_tensor([number])]).diff()


def test_a_sky_is_cut_into_pieces_on_a_gpu():
    """Half of the points are of one colour: hundreds of them share a vertex."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    colours = torch.rand(3, 20, 40, generator=torch.Generator().manual_seed(0)) * 40
    colours[:, :10] = 40
    features = torch.cat([torch.stack([x, y]) / 50, colours]).flatten(1)
    values = torch.rand(800, 2, generator=torch.Generator().manual_seed(1))
    whole = build_lattice(features)
    assert lengths(whole.starts, len(whole.points)).max() > 2 * LONGEST
    with pretend_gpus():
        lattice = build_lattice(features.to("cuda"))
        found = lattice.filter(values.to("cuda")).cpu().numpy()
        starts, pieces = lattice.starts.cpu(), lattice.pieces.cpu()
    assert len(pieces) == len(whole.starts)
    assert lengths(starts, len(whole.points)).max() <= LONGEST
    assert lengths(pieces, len(starts)).max() <= LONGEST
    expected = plain_filter(features.numpy(), values.double().numpy())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_lattice_parts_fit_together():
    features = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    lattice = build_lattice(features)
    m = len(lattice.starts) - 1
    alpha = 1 / (1 + 2.0**-5)
    torch.testing.assert_close(lattice.slice_weights.sum(1), torch.full((200,), alpha))
    assert lattice.vertices.unique().tolist() == list(range(m))
    for pair in lattice.neighbours.long():
        assert pair[m].tolist() == [m, m]
        for here, there in ((0, 1), (1, 0)):  # the neighbour's other neighbour is the vertex itself
            known = (pair[:, here] < m).nonzero().squeeze(1)
            assert pair[pair[known, here], there].equal(known)


def test_filter_of_a_single_point():
    # d = 2, at the origin: all of it at one corner. Blurs add 1/2 to the corner before it, half of
    # that to the one between, and half of that back: (1 + 1/8) / (1 + 1/4).
    assert build_lattice(torch.zeros(2, 1)).filter(torch.ones(1, 1)).item() == pytest.approx(0.9)
    # d = 1: both directions join the two corners: (1 + 1/4) / (1 + 1/2).
    assert build_lattice(torch.zeros(1, 1)).filter(torch.ones(1, 1)).item() == pytest.approx(5 / 6)


def test_filter_of_two_neighbouring_vertices():
    # d = 1: y = (s f, -s f) with s = 2 / sqrt(3), so f = sqrt(3) / 2 is the vertex (1, -1). Values
    # 1 and 3; direction 0 makes 2.5 and 3.5, direction 1 the same pair of 4.25 and 4.75.
    # The second point sits on its vertex to rounding and makes (2, -2) with a weight of about 0.
    features = torch.tensor([[0.0, math.sqrt(3) / 2 - 1e-4]])
    filtered = build_lattice(features).filter(torch.tensor([[1.0], [3.0]])).squeeze(1) * 1.5
    torch.testing.assert_close(filtered, torch.tensor([4.25, 4.75]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [math.nan, 1e9])
def test_features_out_of_range_are_refused(value):
    features = torch.zeros(5, 3)
    features[2, 1] = value
    with pytest.raises(TooWideError):
        build_lattice(features)


def test_keys_that_do_not_fit_are_refused():
    with pytest.raises(TooWideError):  # each axis fits, all six do not
        build_lattice(torch.eye(5) * 3000)
