"""Paths and pairs against loops and gathering, and against the released code's order."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.reference import affinity_labels, pair_indices, parity
from tool.errors import InputError
from tool.indexing import search_paths, sources


def test_paths_by_hand():
    paths = {(path.dy, path.dx): path.cells for path in search_paths(3)}
    assert list(paths)[:2] == [(0, 1), (1, 0)]
    assert paths[0, 2] == ((0, 0), (0, 1), (0, 2))
    assert paths[1, -1] == ((0, -1), (0, 0), (1, -1), (1, 0))
    assert paths[1, 2] == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert set(paths) == {
        *((0, 1), (0, 2), (1, -2), (1, -1), (1, 0), (1, 1), (1, 2)),
        *((2, -2), (2, -1), (2, 0), (2, 1), (2, 2)),
    }


@pytest.mark.parametrize("radius", [1, 4.5, 10])
def test_runs_are_the_cells_of_a_path(radius):
    for path in search_paths(radius):
        cells = [
            (y, x + k) if axis == -1 else (y + k, x)
            for axis, length, y, x in path.runs
            for k in range(length)
        ]
        assert sorted(cells) == sorted(path.cells)
        assert {(0, 0), (path.dy, path.dx)} <= set(cells)


def test_offsets_are_in_the_released_order():
    order = parity("irn_forward")["pair_order"]
    assert torch.equal(pair_indices(10, (24, 24))[0], order)


def test_map_without_pairs_says_which_is_the_least():
    with pytest.raises(InputError, match=r"9x40 .*10x19 .*37x73"):
        sources(9, 40, 10)
    with pytest.raises(InputError, match="18"):
        sources(30, 18, 10)
    assert sources(10, 19, 10) == (0, 9, 1, 1)


def test_affinity_labels_by_loops():
    generator = np.random.default_rng(0)
    label = torch.from_numpy(generator.choice([0, 0, 3, 7, 9, 255], (2, 6, 9)).astype(np.uint8))
    kinds = affinity_labels(label, 9, 3)  # 9 is no class: unknown
    _, starts, ends = pair_indices(3, (6, 9))
    flat = label.flatten(1).tolist()
    for b, (o, dst) in itertools.product(range(2), enumerate(ends.tolist())):
        for n, (i, j) in enumerate(zip(starts.tolist(), dst, strict=True)):
            p, q = flat[b][i], flat[b][j]
            known = p < 9 and q < 9
            expected = [known and p == q == 0, known and p == q > 0, known and p != q]
            assert [bool(kind[b, o, n]) for kind in kinds] == expected


def test_parity_affinity_labels():
    ref = parity("irn_forward")
    kinds = affinity_labels(ref["reduced_label"], 21, 10)
    shape = tuple(ref["label_shape"].tolist())
    for name, kind in zip(("bg_pos", "fg_pos", "neg"), kinds, strict=True):
        bits = np.unpackbits(ref[name].numpy())[: math.prod(shape)].reshape(shape)
        assert torch.equal(kind, torch.from_numpy(bits).bool()), name
