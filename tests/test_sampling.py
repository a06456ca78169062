"""How step 3 samples pictures: against the published programs, plain formulas, and by counting."""

from collections import Counter
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from data.loaders import one_by_one
from data.transforms import (
    RESAMPLE,
    VIEWS,
    deeplabv1_view,
    random_window,
    shift_hsv,
)
from net.deeplabv2 import MEAN_BGR
from net.recipes import MODELS
from tests.reference import PARITY
from tool.errors import InputError

V2, V1 = MODELS


def drawing(mirrored: bool, top: float, left: float) -> Mock:
    """A generator that draws a sample which is mirrored or not, at a place."""
    draws = {"random.return_value": 0.0 if mirrored else 1.0}
    return Mock(**draws, **{"integers.side_effect": [int(top), int(left)]})


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def numbered(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture whose pixels tell their row and column, and its rows as labels."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows], -1), rows


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(PARITY / "sampling.npz") as file:
        return dict(file)


# ---------------------------------------------------------------------- the published programs


def check_window(found, window, label):
    assert [array.dtype for array in found] == [np.float32, np.uint8]
    np.testing.assert_allclose(found[0], window, atol=1e-4)
    np.testing.assert_array_equal(found[1], label)


@pytest.mark.parametrize("number", range(3))
def test_parity_windows_of_deeplabv2(reference, number):
    picture, label = reference[f"picture{number}"], reference[f"label{number}"]
    scale, top, left, mirrored = reference[f"v2_draw{number}"]
    rng = drawing(mirrored, top, left)
    found = random_window(V2, picture, label, rng, scale, 65, "bilinear")
    check_window(found, reference[f"v2_window{number}"], reference[f"v2_label{number}"])


@pytest.mark.parametrize("number", range(3))
def test_parity_windows_of_deeplabv1(reference, number):
    picture, label = reference[f"picture{number}"], reference[f"label{number}"]
    draw = reference[f"v1_draw{number}"]
    shift, mirrored, scale = draw[:3].astype(int), draw[3], float(draw[4])
    recoloured = shift_hsv(picture, shift)
    np.testing.assert_array_equal(recoloured, reference[f"v1_hsv{number}"])
    rng = drawing(mirrored, *draw[5:7])
    found = random_window(V1, recoloured, label, rng, scale, 73, "bicubic")
    check_window(found, reference[f"v1_window{number}"], reference[f"v1_label{number}"])


def test_parity_views_of_deeplabv1(reference):
    views = [deeplabv1_view(reference["picture0"], scale) for scale in (0.5, 1.75)]
    np.testing.assert_allclose(views[0], reference["v1_test_0.5"], atol=1e-4)
    assert views[1].shape == (3, 158, 210)  # 157.5 is rounded to even
    sparse = reference["v1_test_1.75_every_4th_pixel"]
    np.testing.assert_allclose(views[1][:, ::4, ::4], sparse, atol=1e-4)


# ---------------------------------------------------------------------- plain formulas


def plain_bilinear(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the picture between its four nearest pixels, in float64; borders are repeated."""

    def along(values: np.ndarray, target: int) -> np.ndarray:
        at = (np.arange(target) + 0.5) * len(values) / target - 0.5
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
        first, second = (values[np.clip(i, 0, len(values) - 1)] for i in (low, low + 1))
        return first * (1 - share) + second * share

    rows = along(picture.astype(np.float64), height)
    return along(rows.swapaxes(0, 1), width).swapaxes(0, 1)


@pytest.mark.parametrize(
    ("scale", "top", "left", "mirrored"),
    [(0.5, 0, 0, True), (1.5, 17, 31, False)],
)
def test_window_of_deeplabv2_is_the_plain_formula(scale, top, left, mirrored):
    picture, size = noise(27, 41), 21
    label = np.random.default_rng(1).integers(0, 21, (27, 41), dtype=np.uint8)
    height, width = int(27 * scale), int(41 * scale)
    resized = plain_bilinear(picture, height, width)
    nearest = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    padded = np.full((max(height, size), max(width, size), 3), MEAN_BGR[::-1])
    padded[:height, :width] = resized
    ids = np.full(padded.shape[:2], 255)
    ids[:height, :width] = np.asarray(nearest)
    padded, ids = (a[top : top + size, left : left + size] for a in (padded, ids))
    if mirrored:
        padded, ids = padded[:, ::-1], ids[:, ::-1]
    expected = padded[..., ::-1] - MEAN_BGR
    rng = drawing(mirrored, top, left)
    window, found = random_window(V2, picture, label, rng, scale, size, "bilinear")
    np.testing.assert_allclose(window, expected.transpose(2, 0, 1), atol=1e-3)
    np.testing.assert_array_equal(found, ids)
    assert (window[:, found == 255] == 0).all()


@pytest.mark.parametrize(
    ("colour", "shift", "expected"),
    [
        ((255, 0, 0), (120, 0, 0), [0, 0, 255]),
        ((100, 100, 100), (0, -10, 200), [255, 255, 255]),
    ],
)
def test_hue_wraps_and_the_others_are_cut_off(colour, shift, expected):
    assert shift_hsv(np.array([[colour]], np.uint8), shift).tolist() == [[expected]]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_pictures_of_hardly_any_pixels_and_too_many(model, shape):
    picture, rng = noise(*shape), np.random.default_rng(0)
    assert VIEWS[model](picture, 0.1).shape[0] == 3
    window, ids = random_window(model, picture, picture[..., 0] % 3, rng, 0.1, 8, "bicubic")
    assert window.shape == (3, 8, 8)
    assert (ids != 255).any()
    with pytest.raises(InputError, match=f"{shape[1]}x{shape[0]} pixels"):
        VIEWS[model](picture, 70000.0)


def test_memory_that_ends_is_told_as_such(monkeypatch):
    def fails(*args, **kwargs):
        error = cv2.error("Failed to allocate")
        error.code = cv2.Error.StsNoMem
        raise error

    monkeypatch.setattr(cv2, "resize", fails)
    with pytest.raises(MemoryError):
        deeplabv1_view(noise(2, 3), 1.5)


# ---------------------------------------------------------------------- chance


@pytest.mark.parametrize(
    ("model", "sides"),
    [
        ("deeplabv2_resnet101", {(0, False), (1, True)}),  # padded at the end, then mirrored
        ("deeplabv1_resnet38", {(0, False), (0, True), (1, False), (1, True)}),
    ],
)
def test_windows_are_uniform(model, sides):
    """A picture of 6x3 in a window of 4: three rows to begin with, two places from the left."""
    seen = Counter()
    picture, label = numbered(6, 3)
    for seed in range(1200):
        rng = np.random.default_rng(seed)
        window, ids = random_window(model, picture, label, rng, 1.0, 4, "bilinear")
        inside = ids[0] != 255
        place = int(inside.argmax())
        assert inside.tolist() == [place <= x < place + 3 for x in range(4)]
        shades = window[1, 0][inside]  # the green channel counts columns
        mirrored = bool(shades[0] > shades[-1])
        seen[int(ids[0].min()), place, mirrored] += 1
    assert set(seen) == {(row, *side) for row in range(3) for side in sides}
    assert min(seen.values()) > 0.65 * 1200 / len(seen)


@pytest.mark.parametrize("model", MODELS)
def test_filters_are_those_that_are_asked_for(model):
    picture, windows = noise(9, 9), []
    for resample in RESAMPLE:
        label, rng = picture[..., 0] % 3, np.random.default_rng(3)
        windows.append(random_window(model, picture, label, rng, 1.5, 8, resample)[0])
    assert not np.allclose(*windows)


# ---------------------------------------------------------------------- OpenCV's place


def threads(_: int) -> int:
    """Tell how many threads OpenCV would use in the process that is asked."""
    return cv2.getNumThreads()


def test_opencv_opens_no_threads():
    assert set(one_by_one(threads, range(4), 2)) == {cv2.getNumThreads()} == {1}
