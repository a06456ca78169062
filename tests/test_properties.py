"""What holds for every size, every number of classes and every value: random cases."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from net.resnet50_SIPE import (
    CAM_EPS,
    consistency_loss,
    general_cam,
    get_prototype,
    get_seed,
    reactivate,
)
from tests.reference import plain_reactivation, plain_seeds
from tool.crf import crf_inference, crf_inference_label

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


# ------------------------------------------------------------------------------ CRF


@cases(125)
@given(st.booleans(), st.integers(1, 6), SIDES, st.integers(1, 24), st.integers(0, 4), SEEDS)
def test_crf(constant, c, h, w, t, seed):
    rng = np.random.default_rng(seed)
    img = rng.integers(0, 256, (h, w, 3), np.uint8)
    if constant:
        img[:] = img[0, 0]
    probs = crf_inference(img, normal(seed, c, h, w).mul(4).softmax(0), t)
    assert probs.shape == (c, h, w)
    assert probs.min() >= 0
    assert (probs.sum(0) - 1).abs().max() < ROUNDING
    labels = rng.integers(0, c, (2, h, w))
    labels[0] = c - 1
    before = img.copy(), labels.copy()
    views = crf_inference_label(img, labels, t, c)
    assert (views[0] == c - 1).all()
    assert 0 <= views.min() <= views.max() < c
    assert np.array_equal(views[1], crf_inference_label(img, labels[1], t, c))
    assert np.array_equal(img, before[0])
    assert np.array_equal(labels, before[1])
    if t == 0:
        assert np.array_equal(views, labels)
