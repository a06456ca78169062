"""The CRF against a plain mean field in float64, hand-computed cases and pydensecrf2."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.reference import parity, plain_kernel
from tool.crf import (
    SCORE_KERNELS,
    Kernels,
    crf_inference,
    crf_inference_label,
    gaussian_kernel,
    mean_field,
)


def plain_features(img, sxy, srgb=None):
    """Rows x / sxy, y / sxy and, with srgb, R, G, B / srgb; (d, N) float64."""
    height, width = img.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    position = np.stack([x, y]) / sxy
    return position if srgb is None else np.concatenate([position, img.reshape(-1, 3).T / srgb])


def plain_crf(unary, t, kernels):
    """Mean field of float64 energies (C, N)."""

    def softmax(logits):
        e = np.exp(logits - logits.max(0))
        return e / e.sum(0)

    q = softmax(-unary)
    for _ in range(t):
        q = softmax(-unary + sum(weight * kernel(q.T).T for weight, kernel in kernels))
    return q


def make_case(height, width, num_classes, seed=0, noise=6.0):
    """A picture of smooth colours with noise, (H, W, 3) uint8, and random areas as labels."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(1, 3, 4, 5, generator=generator) * 200 + 25
    smooth = F.interpolate(colours, size=(height, width), mode="bilinear")[0]
    smooth += noise * torch.randn(smooth.shape, generator=generator)
    areas = F.interpolate(
        torch.rand(1, num_classes, 5, 6, generator=generator), size=(height, width), mode="bilinear"
    )[0]
    img = smooth.clamp(1, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return img, areas.argmax(0).numpy()


def label_unary(labels, num_classes, gt_prob=0.7):
    own = labels.reshape(1, -1) == np.arange(num_classes)[:, None]
    return np.where(own, -math.log(gt_prob), -math.log((1 - gt_prob) / (num_classes - 1)))


class Mean:
    """A kernel that gives every point the mean of all."""

    def filter(self, values):
        return values.mean(0, keepdim=True).expand_as(values)


def test_mean_field_step_by_hand():
    # Two pixels, two labels: Q = (0.8, 0.2) and (0.4, 0.6), their mean (0.6, 0.4); weight ln 10.
    q = torch.tensor([[[0.8, 0.4], [0.2, 0.6]]])
    refined = mean_field(-q.log(), [(math.log(10), Mean())], 1)
    factor = 10**0.6 / 10**0.4
    first, second = 0.8 * factor / (0.8 * factor + 0.2), 0.4 * factor / (0.4 * factor + 0.6)
    expected = torch.tensor([[[first, second], [1 - first, 1 - second]]])
    torch.testing.assert_close(refined, expected)


@pytest.mark.parametrize(("height", "width", "num_classes"), [(7, 9, 2), (1, 12, 3)])
def test_labels_equal_the_plain_crf(height, width, num_classes):
    img, labels = make_case(height, width, num_classes, seed=height)
    kernels = (
        (3, plain_kernel(plain_features(img, 3))),
        (10, plain_kernel(plain_features(img, 50, 5))),
    )
    q = plain_crf(label_unary(labels, num_classes), 5, kernels)
    refined = crf_inference_label(img, labels, t=5, num_classes=num_classes)
    assert np.array_equal(refined, q.argmax(0).reshape(height, width))


@pytest.mark.parametrize(
    ("given", "setting"),
    [((), (10, 1, 3, 67, 3, 4)), ((1, Kernels(3, 3, 32, 13, 10)), (1, 3, 3, 32, 13, 10))],
)
def test_scores_equal_the_plain_crf(given, setting):
    img, _ = make_case(8, 9, 2, seed=3)
    probs = torch.rand(4, 8, 9, generator=torch.Generator().manual_seed(4)).mul(3).softmax(0)
    t, gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight = setting
    kernels = (
        (gaussian_weight, plain_kernel(plain_features(img, gaussian_sxy))),
        (bilateral_weight, plain_kernel(plain_features(img, bilateral_sxy, bilateral_srgb))),
    )
    expected = plain_crf(-np.log(probs.double().flatten(1).numpy()), t, kernels)
    refined = crf_inference(img, probs, *given)
    assert refined.shape == probs.shape
    np.testing.assert_allclose(refined.flatten(1), expected, rtol=1e-3, atol=1e-5)


def test_parity_with_the_reference():
    ref = {name: value.numpy() for name, value in parity("ir_label").items()}
    img, maps, keys = ref["image"], ref["IS_CAM"], ref["keys"]
    expected = np.stack([ref["fg_conf"], ref["bg_conf"]])
    background = maps.copy()
    background[0] *= 0.5
    views = np.stack([maps.argmax(0), background.argmax(0)])
    refined = keys[crf_inference_label(img, views, num_classes=len(keys))]
    assert (keys[views] == expected).mean() < 0.99  # the CRF has something to do
    assert np.array_equal(refined, expected)


def pydensecrf(img, unary, gaussian, bilateral):
    """Return the scores (C, H, W) of energies (C, N) after ten steps of pydensecrf2."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    height, width = img.shape[:2]
    model = densecrf.DenseCRF2D(width, height, len(unary))
    model.setUnaryEnergy(unary.astype(np.float32))
    model.addPairwiseGaussian(**gaussian)
    model.addPairwiseBilateral(rgbim=img, **bilateral)
    return np.array(model.inference(10)).reshape(-1, height, width)


def test_labels_equal_pydensecrf():
    img, labels = make_case(47, 33, 21, seed=33, noise=3)
    bilateral = {"sxy": 50, "srgb": 5, "compat": 10}
    scores = pydensecrf(img, label_unary(labels, 21), {"sxy": 3, "compat": 3}, bilateral)
    refined = crf_inference_label(img, labels)
    assert (refined != labels).any()
    assert (refined == scores.argmax(0)).mean() >= 0.999


def test_scores_equal_pydensecrf():
    img, _ = make_case(50, 66, 2, seed=5, noise=3)
    probs = torch.rand(6, 50, 66, generator=torch.Generator().manual_seed(5)).mul(4).softmax(0)
    probs[0, :10] = 0  # clipped
    unary = -np.log(probs.flatten(1).numpy().clip(1e-5, 1))
    bilateral = {"sxy": 67, "srgb": 3, "compat": 4}
    expected = pydensecrf(img, unary, {"sxy": 1, "compat": 3}, bilateral)
    np.testing.assert_allclose(crf_inference(img, probs), expected, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_cuda_equals_cpu():
    img, _ = make_case(60, 80, 3, noise=3)
    probs = torch.rand(4, 60, 80, generator=torch.Generator().manual_seed(0)).softmax(0)
    refined = crf_inference(img, probs.cuda())
    assert refined.is_cuda
    torch.testing.assert_close(refined.cpu(), crf_inference(img, probs), rtol=0, atol=1e-3)


def test_calls_do_not_depend_on_those_before():
    img, labels = make_case(18, 22, 3)
    gaussian_kernel.cache_clear()
    with torch.inference_mode():
        first = crf_inference_label(img, labels, num_classes=3)
    assert not crf_inference(img, torch.rand(3, 18, 22, requires_grad=True)).requires_grad
    assert np.array_equal(crf_inference_label(img, labels, num_classes=3), first)


def test_inputs_of_any_layout_and_type():
    img, labels = make_case(16, 18, 3)
    bgr = np.ascontiguousarray(img[..., ::-1])[..., ::-1]
    refined = crf_inference_label(bgr, np.asfortranarray(labels, ">i4"), num_classes=3)
    assert np.array_equal(refined, crf_inference_label(img, labels, num_classes=3))


IMG = np.zeros((4, 5, 3), np.uint8)
LABELS = np.zeros((4, 5), np.int64)
PROBS = torch.ones(2, 4, 5)


@pytest.mark.parametrize(
    ("img", "maps", "options"),
    [
        (np.zeros((4, 5, 3)), LABELS, {}),
        (IMG, LABELS + 255, {}),
        (IMG, LABELS, {"gt_prob": 1.0}),
        (IMG, PROBS * math.nan, {}),
        (IMG, PROBS, {"kernels": SCORE_KERNELS._replace(bilateral_srgb=0)}),
        (IMG, PROBS, {"kernels": SCORE_KERNELS._replace(gaussian_sxy=1e-5)}),
    ],
)
def test_wrong_arguments_are_refused(img, maps, options):
    refine = crf_inference if isinstance(maps, torch.Tensor) else crf_inference_label
    with pytest.raises(ValueError, match=r"Expected|must|CRF"):
        refine(img, maps, **options)
