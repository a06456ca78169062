"""What holds for every size, every number of classes and every value: random cases."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cam2ir import confident_areas, views_of
from make_cam import infer
from net.resnet50_SIPE import (
    CAM_EPS,
    consistency_loss,
    general_cam,
    get_prototype,
    get_seed,
    reactivate,
)
from tests import reference
from tests.reference import plain_reactivation, plain_seeds
from tool.crf import crf_inference, crf_inference_label, crf_inference_views
from tool.indexing import search_paths, sources
from tool.maps import fuse
from tool.walk import propagate_to_edge, refine_by_walk

SIDES, LONG = st.integers(1, 9), st.integers(1, 50)
SEEDS = st.integers(0, 2**32 - 1)
ROUNDING = 1e-5


def cases(number: int):
    """Draw ``number`` cases, the same ones every time."""
    return settings(max_examples=number, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, height: int, width: int, kind: str = "noise") -> np.ndarray:
    """Return uint8 (H, W, 3): noise, or one colour alone."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    return np.full((height, width, 3), rng.integers(0, 256, 3, np.uint8))


# ------------------------------------------------------------------------------ SIPE

LOGITS = st.sampled_from(["normal", "zero", "negative", "constant", "large"])


def logits_of(kind: str, seed: int, *shape: int) -> torch.Tensor:
    values = normal(seed, *shape)
    kinds = {
        "normal": values,
        "zero": values * 0,
        "negative": -values.abs(),
        "constant": values * 0 + 3,
        "large": values * 1e4,
    }
    return kinds[kind]


@cases(300)
@given(LOGITS, st.integers(1, 3), st.integers(1, 8), SIDES, SIDES, SEEDS)
def test_general_cam(kind, b, k, h, w, seed):
    logits = logits_of(kind, seed, b, k, h, w)
    cam = general_cam(logits)
    assert cam.shape == (b, k + 1, h, w)
    assert cam.min() >= 0
    assert cam.max() <= 1
    plain = logits.double().relu()
    plain = plain / (plain.amax((2, 3), keepdim=True) + CAM_EPS)
    plain = torch.cat([1 - plain.amax(1, keepdim=True), plain], 1)
    assert (cam - plain).abs().max() < ROUNDING


@cases(200)
@given(LOGITS, st.integers(1, 2), st.integers(1, 4), st.integers(1, 6), SIDES, SIDES, SEEDS)
def test_seeds(kind, b, k, d, h, w, seed):
    cam = general_cam(logits_of(kind, seed, b, k, h, w))
    label = (uniform(seed, b, k + 1, 1, 1) < 0.6).float()
    label[:, 0] = 1
    feature = normal(seed + 1, b, d, h, w)
    seeds, probs = get_seed(cam, label, feature)
    assert seeds.isfinite().all()
    assert probs.isfinite().all()
    assert set(seeds.unique().tolist()) <= {0, 1}
    assert seeds.sum(1).max() <= 1  # at most one class a position
    assert (seeds[(label == 0).expand_as(seeds)] == 0).all()
    assert (probs.sum(1) - 1).abs().max() < ROUNDING
    plain, plain_probs = plain_seeds(cam, label, feature)
    assert (probs - plain_probs).abs().max() < ROUNDING
    # Where two classes are level within rounding, either may win.
    best = plain_probs.sort(1).values
    clear = (best[:, -1] - best[:, -2] > 1e-4)[:, None].expand_as(seeds)
    assert torch.equal(seeds.double()[clear], plain[clear])


@cases(300)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), SIDES, SIDES, SEEDS, st.booleans())
def test_prototypes_and_is_cam(b, c, d, h, w, seed, no_feature):
    seeds = torch.nn.functional.one_hot(
        torch.randint(0, c, (b, h, w), generator=torch.Generator().manual_seed(seed)), c
    ).movedim(3, 1)
    seeds = seeds.float() * (uniform(seed, b, c, 1, 1) < 0.7)
    feature = normal(seed, b, d, h, w) * (0 if no_feature else 1)
    prototype = get_prototype(seeds, feature)
    is_cam = reactivate(prototype, feature)
    plain, plain_is_cam = plain_reactivation(seeds.double(), feature.double())
    assert (prototype[..., 0, 0] - plain).abs().max() < ROUNDING
    assert is_cam.min() >= 0
    assert is_cam.max() <= 1 + 1e-6
    # A direction is lost in float32 where what is left of a sum is small beside its terms.
    clear = (plain.norm(dim=2) > 1e-3) | (plain.norm(dim=2) == 0)
    difference = (is_cam - plain_is_cam).abs().amax((2, 3))
    assert (difference[clear] < 1e-4).all()
    cam = general_cam(normal(seed, b, c, h, w))[:, :c]
    loss = consistency_loss(cam, is_cam)
    assert loss.isfinite()
    assert 0 <= loss <= 1


class Mapped:
    """A network whose maps are given: zeros, a constant, or noise."""

    prepare = staticmethod(torch.Tensor.float)

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed

    def __call__(self, pair, label):
        noise = uniform(self.seed, len(label), -(-pair.shape[2] // 16), -(-pair.shape[3] // 16))
        maps = {"zero": noise * 0, "constant": noise * 0 + 0.3, "noise": noise}[self.kind]
        return maps, maps * label


@cases(200)
@given(
    st.sampled_from(["zero", "constant", "noise"]), st.integers(1, 5), LONG, LONG, LONG, LONG, SEEDS
)
def test_maps_are_in_0_to_1(kind, k, h, w, height, width, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (1, k + 1)))
    labels[0, 0] = 1
    pictures = [torch.zeros(1, 3, h, w, dtype=torch.uint8)] * 2
    (scales,) = infer(Mapped(kind, seed), pictures, labels)
    present = int(labels.sum())
    is_cam, cam = fuse(scales, (height, width)).split([present, present - 1])
    assert cam.shape == (present - 1, height, width)
    assert is_cam.shape == (present, height, width)
    for maps in (cam, is_cam):
        assert maps.isfinite().all()
        assert ((maps >= 0) & (maps <= 1)).all()


# ------------------------------------------------------------------------------ affinities, walk


@cases(200)
@given(st.integers(1, 3), st.sampled_from([2, 3, 5]), SIDES, SIDES, SEEDS)
def test_path_maxima_by_loops(b, radius, more_rows, more_columns, seed):
    h, w = radius + more_rows, 2 * radius + more_columns
    edge = uniform(seed, b, h, w).double()
    affinity = reference.pair_affinity(edge, radius)
    area = sources(h, w, radius)
    top, left, height, width = area
    rng = np.random.default_rng(seed)
    paths = search_paths(radius)
    for _ in range(20):
        number = int(rng.integers(len(paths)))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        cells = [(top + y + dy, left + x + dx) for dy, dx in paths[number].cells]
        largest = torch.stack([edge[:, row, column] for row, column in cells]).amax(0)
        assert torch.equal(affinity[:, number, y * width + x], 1 - largest)
    assert torch.equal(affinity, 1 - reference.gathered_maxima(edge, radius))


@cases(150)
@given(
    st.integers(1, 4),
    SIDES,
    SIDES,
    st.sampled_from([1, 2, 10]),
    st.integers(0, 8),
    st.sampled_from(["noise", "open", "walls"]),
    SEEDS,
)
def test_walk_against_dense_float64(p, h, w, beta, exp_times, kind, seed):
    maps = uniform(seed, p, 1, h, w)
    edge = uniform(seed + 1, 1, h, w) ** 3
    edge = {"noise": edge, "open": edge * 0, "walls": torch.ones_like(edge)}[kind]
    walked = propagate_to_edge(maps, edge, 5, beta, exp_times)
    assert walked.shape == (p, 1, h, w)
    assert walked.isfinite().all()
    expected = reference.dense_walk(maps.double(), edge.double(), 5, beta, exp_times)
    assert (walked - expected).abs().max() < ROUNDING * max(1, float(expected.max()))


@cases(200)
@given(st.integers(1, 4), LONG, LONG, st.sampled_from(["noise", "zero", "one"]), SEEDS)
def test_label_of_a_walk(p, height, width, kind, seed):
    maps = uniform(seed, p, height, width)
    maps = {"noise": maps, "zero": maps * 0, "one": maps * 0 + 1}[kind]
    edge = uniform(seed + 1, 1, -(-height // 4), -(-width // 4))
    index, scores = refine_by_walk(maps, edge, (height, width))
    assert index.shape == (height, width)
    assert scores.shape == (p, height, width)
    assert scores.isfinite().all()
    assert ((scores >= -1e-6) & (scores <= 1)).all()
    assert index.min() >= 0
    assert index.max() < p
    if kind == "zero":
        assert (index == 0).all()


# ------------------------------------------------------------------------------ CRF

KINDS = st.sampled_from(["noise", "constant"])


@cases(125)
@given(KINDS, st.integers(1, 6), SIDES, st.integers(1, 24), st.integers(0, 4), SEEDS)
def test_crf_of_probabilities(kind, c, h, w, t, seed):
    img = picture(seed, h, w, kind)
    probs = crf_inference(img, normal(seed, c, h, w).mul(4).softmax(0), t)
    assert probs.shape == (c, h, w)
    assert probs.isfinite().all()
    assert probs.min() >= 0
    assert (probs.sum(0) - 1).abs().max() < ROUNDING


@cases(125)
@given(KINDS, st.integers(1, 6), SIDES, st.integers(1, 24), st.integers(0, 4), SEEDS)
def test_crf_of_labels(kind, c, h, w, t, seed):
    img = picture(seed, h, w, kind)
    labels = np.random.default_rng(seed).integers(0, c, (2, h, w))
    before = img.copy(), labels.copy()
    views = crf_inference_views(img, labels, t, c)
    assert views.shape == labels.shape
    assert views.min() >= 0
    assert views.max() < c
    assert np.array_equal(views[1], crf_inference_label(img, labels[1], t, c))
    assert np.array_equal(img, before[0])
    assert np.array_equal(labels, before[1])
    one = np.full((h, w), c - 1)
    assert (crf_inference_label(img, one, t, c) == c - 1).all()


@cases(125)
@given(KINDS, st.integers(1, 4), SIDES, st.integers(1, 24), SEEDS, st.booleans())
def test_confident_areas(kind, p, h, w, seed, zero):
    rng = np.random.default_rng(seed)
    keys = np.concatenate([[0], np.sort(rng.choice(np.arange(1, 255), p - 1, replace=False))])
    is_cam = rng.random((p, h, w), np.float32) * (not zero)
    label = confident_areas(picture(seed, h, w, kind), views_of(is_cam), keys, 2, 0.7, "cpu")
    assert label.dtype == np.uint8
    assert label.shape == (h, w)
    assert set(np.unique(label)) <= {*keys.tolist(), 255}
