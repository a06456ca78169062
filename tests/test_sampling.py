"""How step 3 samples pictures: against the published programs, plain formulas, and by counting."""

import ast
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from data.loaders import one_by_one
from data.transforms import (
    RESAMPLE,
    VIEWS,
    WINDOWS,
    deeplabv1_view,
    deeplabv1_window,
    deeplabv2_view,
    deeplabv2_window,
    resize_by_factor,
    shift_hsv,
)
from net.deeplabv2 import MEAN_BGR
from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.recipes import MODELS
from tests.reference import PARITY
from tool.errors import InputError

ROOT = Path(__file__).parents[1]


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
    found = deeplabv2_window(picture, label, scale, int(top), int(left), bool(mirrored), 65)
    check_window(found, reference[f"v2_window{number}"], reference[f"v2_label{number}"])


@pytest.mark.parametrize("number", range(3))
def test_parity_windows_of_deeplabv1(reference, number):
    picture, label = reference[f"picture{number}"], reference[f"label{number}"]
    draw = reference[f"v1_draw{number}"]
    shift, mirrored, scale = draw[:3].astype(int), bool(draw[3]), float(draw[4])
    recoloured = shift_hsv(picture, shift)
    np.testing.assert_array_equal(recoloured, reference[f"v1_hsv{number}"])
    turned = recoloured[:, ::-1] if mirrored else recoloured
    scaled = resize_by_factor(np.ascontiguousarray(turned), scale, cv2.INTER_CUBIC)
    np.testing.assert_array_equal(scaled, reference[f"v1_scaled{number}"])
    top, left = int(draw[5]), int(draw[6])
    found = deeplabv1_window(recoloured, label, scale, top, left, mirrored, 73)
    check_window(found, reference[f"v1_window{number}"], reference[f"v1_label{number}"])


def test_parity_views_of_deeplabv1(reference):
    picture = reference["picture0"]
    np.testing.assert_allclose(deeplabv1_view(picture, 0.5), reference["v1_test_0.5"], atol=1e-4)
    larger = deeplabv1_view(picture, 1.75)
    assert larger.shape == (3, 158, 210)  # 157.5 is rounded to even
    sparse = reference["v1_test_1.75_every_4th_pixel"]
    np.testing.assert_allclose(larger[:, ::4, ::4], sparse, atol=1e-4)


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
    [(0.5, 0, 0, True), (0.75, 0, 3, False), (1.5, 17, 31, True)],
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
    window, found = deeplabv2_window(picture, label, scale, top, left, mirrored, size)
    np.testing.assert_allclose(window, expected.transpose(2, 0, 1), atol=1e-3)
    np.testing.assert_array_equal(found, ids)
    assert (window[:, found == 255] == 0).all()


def test_windows_take_the_first_row_or_put_it():
    """DeepLab v1 at scale 1: nothing is interpolated, so rows and columns can be read off."""
    picture, label = numbered(10, 30)
    window, ids = deeplabv1_window(picture, label, 1.0, 3, 7, False, 16)
    mean, deviation = (np.array(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (window * deviation + mean) * 255
    assert ids[:3].tolist() == ids[13:].tolist() == [[255] * 16] * 3
    assert (window[:, ids == 255] == 0).all()
    np.testing.assert_allclose(pixels[0, 3:13], np.arange(10)[:, None].repeat(16, 1), atol=1e-4)
    np.testing.assert_allclose(pixels[1, 3:13], np.arange(7, 23)[None].repeat(10, 0), atol=1e-4)
    mirrored, turned = deeplabv1_window(picture, label, 1.0, 3, 7, True, 16)
    pixels = (mirrored * deviation + mean) * 255
    np.testing.assert_allclose(pixels[1, 3], 29 - np.arange(7, 23), atol=1e-4)
    np.testing.assert_array_equal(turned, ids)


def test_labels_of_deeplabv1_are_floored():
    label = np.arange(9, dtype=np.uint8)[None].repeat(9, 0)
    _, ids = deeplabv1_window(np.zeros((9, 9, 3), np.uint8), label, 0.5, 0, 0, False, 4)
    assert ids[0].tolist() == [0, 2, 4, 6]  # 4.5 is rounded to 4; Pillow would take 1, 3, 5, 7


@pytest.mark.parametrize(
    ("colour", "shift", "expected"),
    [
        ((255, 0, 0), (120, 0, 0), [0, 0, 255]),
        ((100, 100, 100), (0, -10, 200), [255, 255, 255]),
        ((100, 100, 100), (0, 0, -200), [0, 0, 0]),
        ((100, 100, 100), (0, 10, 0), [100, 96, 96]),  # reddened
        ((10, 200, 90), (0, 0, 0), [10, 200, 92]),  # there and back, hues are coarse
    ],
)
def test_hue_wraps_and_the_others_are_cut_off(colour, shift, expected):
    assert shift_hsv(np.array([[colour]], np.uint8), shift).tolist() == [[expected]]


def test_functions_edit_none_of_their_arguments():
    picture, label, shift = arguments = noise(12, 9), noise(12, 9, 1)[..., 0] % 20, np.ones(3, int)
    before = [a.copy() for a in arguments]
    shift_hsv(picture, shift)[:] = 7
    for window in (deeplabv2_window, deeplabv1_window):
        window(picture, label, 1.0, 0, 0, False, 9)[0][:] = 7
    for view in VIEWS.values():
        view(picture, 1.0)[:] = 7
    assert all(map(np.array_equal, before, arguments))


@pytest.mark.parametrize("model", MODELS)
def test_pictures_of_hardly_any_pixels_and_too_many(model):
    for shape in ((1, 1), (1, 9), (3, 2)):
        for scale in (0.1, 0.5, 1.0):
            picture = noise(*shape)
            assert VIEWS[model](picture, scale).shape[0] == 3
            rng = np.random.default_rng(0)
            label = picture[..., 0] % 3
            window, ids = WINDOWS[model](picture, label, rng, scale, None, 8, "bicubic")
            assert window.shape == (3, 8, 8)
            assert (ids != 255).any()
    with pytest.raises(InputError, match="3x2 pixels"):
        VIEWS[model](noise(2, 3), 30000.0)


# ---------------------------------------------------------------------- test time


def test_view_of_deeplabv2_at_its_own_size_is_exact():
    picture = noise(7, 9)
    expected = picture[..., ::-1].astype(np.float32) - np.float32(MEAN_BGR)
    np.testing.assert_array_equal(deeplabv2_view(picture, 1.0), expected.transpose(2, 0, 1))
    assert deeplabv2_view(picture, 1.5).shape == (3, 10, 13)  # 10.5 and 13.5, truncated


@pytest.mark.parametrize("model", MODELS)
def test_memory_that_ends_is_told_as_such(model, monkeypatch):
    def fails(*args, **kwargs):
        error = cv2.error("Failed to allocate")
        error.code = cv2.Error.StsNoMem
        raise error

    monkeypatch.setattr(cv2, "resize", fails)
    with pytest.raises(MemoryError):
        VIEWS[model](noise(2, 3), 1.5)


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
        window, ids = WINDOWS[model](picture, label, rng, 1.0, None, 4, "bilinear")
        inside = ids[0] != 255
        place = int(inside.argmax())
        assert inside.tolist() == [place <= x < place + 3 for x in range(4)]
        shades = window[1, 0][inside]  # the green channel counts columns
        mirrored = bool(shades[0] > shades[-1])
        seen[int(ids[0].min()), place, mirrored] += 1
    assert set(seen) == {(row, *side) for row in range(3) for side in sides}
    assert min(seen.values()) > 0.65 * 1200 / len(seen)


@pytest.mark.parametrize("model", MODELS)
def test_colours_and_filters_are_those_that_are_asked_for(model):
    picture, shift = noise(9, 9), np.array([10, -10, 9])

    def window(colours, by, resample):
        label, rng = picture[..., 0] % 3, np.random.default_rng(3)
        return WINDOWS[model](colours, label, rng, 1.5, by, 8, resample)[0]

    shifted = window(picture, shift, "bicubic")
    assert np.array_equal(shifted, window(shift_hsv(picture, shift), None, "bicubic"))
    plain = [window(picture, None, resample) for resample in RESAMPLE]
    assert not np.array_equal(shifted, plain[1])
    assert not np.allclose(*plain)


# ---------------------------------------------------------------------- OpenCV's place


class Threads(TorchDataset):
    """Tells how many threads OpenCV would use in the process that is asked."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return cv2.getNumThreads()


@pytest.mark.parametrize("workers", [0, 2])
def test_opencv_opens_no_threads(workers):
    assert set(one_by_one(Threads(), workers)) == {1}


def test_opencv_reads_and_writes_no_files():
    """It would turn the ids of a palette picture into colours."""
    files = [*ROOT.glob("*.py")]
    for floor in ("data", "net", "tool"):
        files += ROOT.joinpath(floor).rglob("*.py")
    for path in files:
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cv2"
        }
        assert not {name for name in used if name.startswith("im")}, path
        assert not used or path.name in ("transforms.py", "export.py")
