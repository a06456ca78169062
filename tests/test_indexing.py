"""Paths, pairs, walk: against loops and a dense float64 walk, and the reference's numbers."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tool import indexing
from tool.errors import InputError
from tool.indexing import (
    SERIES_ERROR,
    PathIndex,
    affinity_labels,
    pair_affinity,
    power_series,
    propagate_to_edge,
    reduce_label,
    refine_by_walk,
    search_paths,
)

PARITY = Path(__file__).with_name("parity")


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(PARITY / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double().reshape(value.shape)
    return float((value.double() - expected).abs().max() / expected.abs().max())


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


def dense_walk(x, edge, radius, beta, exp_times):
    """The walk as it is defined: T in full, squared exp_times times, in float64."""
    edge = edge.double().numpy().reshape(edge.shape[-2:])
    h, w = edge.shape
    weights = np.eye(h * w)
    for i, j in itertools.combinations(range(h * w), 2):
        dy, dx = j // w - i // w, j % w - i % w
        if dy**2 + dx**2 < radius**2:
            affinity = plain_affinity(edge, i // w, i % w, dy, dx) ** beta
            weights[i, j] = weights[j, i] = affinity
    transition = weights / weights.sum(0, keepdims=True)
    for _ in range(exp_times):
        transition = transition @ transition
    maps = x.double().numpy().reshape(-1, h * w) * (1 - edge.reshape(-1))
    return torch.from_numpy((maps @ transition).reshape(-1, 1, h, w))


def gathered_maxima(edge: torch.Tensor, radius: float) -> torch.Tensor:
    """Path maxima of all pairs by gathering every cell of every path: (B, O, n)."""
    m = math.ceil(radius) - 1
    h, w = edge.shape[1:]
    out = []
    for path in search_paths(radius):
        cells = [edge[:, y : y + h - m, m + x : w - m + x] for y, x in path.cells]
        out.append(torch.stack(cells).amax(0).flatten(1))
    return torch.stack(out, 1)


def test_paths_by_hand():
    paths = {(path.dy, path.dx): path.cells for path in search_paths(3)}
    assert list(paths)[:2] == [(0, 1), (1, 0)]
    assert paths[0, 2] == ((0, 0), (0, 1), (0, 2))
    assert paths[1, -1] == ((0, -1), (0, 0), (1, -1), (1, 0))
    assert paths[1, 2] == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert paths[2, 2] == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))
    assert set(paths) == {
        *((0, 1), (0, 2), (1, -2), (1, -1), (1, 0), (1, 1), (1, 2)),
        *((2, -2), (2, -1), (2, 0), (2, 1), (2, 2)),
    }


@pytest.mark.parametrize("radius", [1, 2, 4.5, 5, 10])
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
    order = reference("irn_forward")["pair_order"]
    assert torch.equal(PathIndex(10, (24, 24)).search_dst, order)


def test_pair_indices_by_loops():
    index = PathIndex(3, (4, 7))
    src = [y * 7 + x for y in range(2) for x in range(2, 5)]
    assert index.src_indices.tolist() == src
    dst = [[i + dy * 7 + dx for i in src] for dy, dx in index.search_dst.tolist()]
    assert index.dst_indices.tolist() == dst
    assert PathIndex(3, [4, 7]).dst_indices is index.dst_indices  # computed once a size


def test_map_without_pairs_names_the_mend():
    with pytest.raises(InputError, match=r"9x40 .*10x19 .*37x73.*larger window"):
        _ = PathIndex(10, (9, 40)).src_indices
    with pytest.raises(InputError, match="18"):
        pair_affinity(torch.zeros(1, 30, 18), 10)
    assert pair_affinity(torch.zeros(1, 10, 19), 10).shape == (1, 152, 1)


@pytest.mark.parametrize(("radius", "size"), [(2, (4, 5)), (5, (9, 12)), (10, (13, 22))])
def test_pair_affinity_and_its_gradient_against_gathering(radius, size):
    edge = random(2, *size)
    ours, plain = edge.clone().requires_grad_(), edge.clone().requires_grad_()
    affinity, expected = pair_affinity(ours, radius), 1 - gathered_maxima(plain, radius)
    assert torch.equal(affinity, expected)
    weight = random(*affinity.shape, seed=1)
    (affinity * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-12, atol=1e-12)


def test_level_paths_send_the_gradient_back_once():
    edge = torch.full((1, 12, 21), 0.5, requires_grad=True)
    affinity = pair_affinity(edge, 10)
    affinity.sum().backward()
    assert float(edge.grad.sum()) == pytest.approx(-affinity.numel())


def test_affinity_labels_by_loops():
    generator = np.random.default_rng(0)
    label = torch.from_numpy(generator.choice([0, 0, 3, 7, 9, 255], (2, 6, 9)).astype(np.uint8))
    kinds = affinity_labels(label, 9, 3)  # 9 is no class: unknown
    index = PathIndex(3, (6, 9))
    flat = label.flatten(1).tolist()
    for b, (o, dst) in itertools.product(range(2), enumerate(index.dst_indices.tolist())):
        for n, (i, j) in enumerate(zip(index.src_indices.tolist(), dst, strict=True)):
            p, q = flat[b][i], flat[b][j]
            known = p < 9 and q < 9
            expected = [known and p == q == 0, known and p == q > 0, known and p != q]
            assert [bool(kind[b, o, n]) for kind in kinds] == expected
    for dtype in (torch.int64, torch.int16):
        for kind, same in zip(kinds, affinity_labels(label.to(dtype), 9, 3), strict=True):
            assert torch.equal(kind, same)
    with pytest.raises(ValueError, match="255"):
        affinity_labels(label, 256, 3)


def test_affinity_labels_of_as_many_classes_as_a_label_holds():
    """254 classes and background are 255 codes, and unknown needs two more."""
    few = torch.randint(0, 5, (2, 6, 9), generator=torch.Generator().manual_seed(0))
    for codes, num_classes in (([0, 252, 253, 255, 255], 254), ([0, 253, 254, 255, 255], 255)):
        label = torch.tensor(codes, dtype=torch.uint8)[few]
        simple = torch.tensor([0, 1, 2, 255, 255], dtype=torch.uint8)[few]
        kinds = affinity_labels(label, num_classes, 3)
        for kind, same in zip(kinds, affinity_labels(simple, 3, 3), strict=True):
            assert torch.equal(kind, same)


def test_parity_affinity_labels():
    ref = reference("irn_forward")
    kinds = affinity_labels(ref["reduced_label"], 21, 10)
    shape = tuple(ref["label_shape"].tolist())
    for name, kind in zip(("bg_pos", "fg_pos", "neg"), kinds, strict=True):
        bits = np.unpackbits(ref[name].numpy())[: math.prod(shape)].reshape(shape)
        assert torch.equal(kind, torch.from_numpy(bits).bool()), name


def test_reduce_label_is_pillows_nearest():
    ref = reference("irn_forward")
    assert torch.equal(reduce_label(ref["segmentation"], (24, 24)), ref["reduced_label"])
    label = np.random.default_rng(0).integers(0, 255, (18, 31)).astype(np.uint8)
    for h, w in ((5, 8), (18, 31), (1, 1), (4, 10)):
        expected = np.array(Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST))
        assert np.array_equal(reduce_label(torch.from_numpy(label), (h, w)).numpy(), expected)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 256, 4096, 2**16])
def test_power_series_on_its_interval(n):
    parity, coefficients = power_series(n)
    degree = parity + 2 * (len(coefficients) - 1)
    assert degree <= min(n, math.sqrt(2 * n * math.log(2 / SERIES_ERROR)) + 1)
    theta = np.linspace(0, np.pi, 4001)
    series = sum(c * np.cos((parity + 2 * i) * theta) for i, c in enumerate(coefficients))
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
    ref = reference("random_walk")
    settings = (int(ref[name]) for name in ("radius", "beta", "exp_times"))
    # The reference squares in float32, which leaves it 5.5e-5 from the float64 result.
    assert relative(propagate_to_edge(ref["x"], ref["edge"], *settings), ref["walked"]) < 1e-4


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
        monkeypatch.setattr(indexing, "BLOCK", block)
        torch.testing.assert_close(propagate_to_edge(x, edge), together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 11)])
def test_both_forms_of_a_product_agree(size, monkeypatch):
    x, edge = random(2, 1, *size), random(1, *size, seed=1)
    shifted = propagate_to_edge(x, edge)
    monkeypatch.setattr(indexing._Walk, "shifting", indexing._Walk.windowed)
    torch.testing.assert_close(propagate_to_edge(x, edge), shifted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("beta", "exp_times"), [(0, 8), (10, -1)])
def test_settings_without_a_walk_are_refused(beta, exp_times):
    with pytest.raises(ValueError, match="beta"):
        propagate_to_edge(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2), 5, beta, exp_times)


def test_parity_pseudo_label():
    ref = reference("pseudo_label")
    index, scores = refine_by_walk(ref["IS_CAM"], ref["edge"], tuple(ref["size"].tolist()))
    assert float((ref["keys"][index] == ref["label"]).double().mean()) >= 0.999
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
