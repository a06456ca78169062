"""Geometry, normalisation and padding of the training window, against plain versions."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.loaders import ClassificationPictures
from data.transforms import random_pair, random_scale, rescale
from net.inputs import inside, normalise, prepare
from net.method import Method
from tool.errors import InputError

SIZES, PLACES = st.integers(1, 20), st.floats(0, 1, exclude_max=True)


def random_view(image, rng, smallest, largest, size):
    """Return window and box of a picture to classify."""
    dataset = Mock(**{"read.return_value": image, "labels.return_value": np.zeros((1, 1))})
    item = ClassificationPictures(dataset, ["p"], size, 0, smallest, largest).view(0, rng)
    return item["window"], item["box"]


class Draws:
    """A source of chance that is given."""

    def __init__(self, mirror: float, place: tuple[float, float]) -> None:
        self.mirror, self.place = mirror, place

    def random(self, n: int | None = None):
        return self.mirror if n is None else np.array(self.place)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a picture without zeros, so that padding shows."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(SIZES, SIZES, st.floats(0.2, 2), st.integers(1, 24), st.booleans(), PLACES, PLACES, SIZES)
def test_window_is_placed_pixel_by_pixel(h, w, scale, size, mirrored, y, x, seed):
    image = noise(h, w, seed)
    before = image.tobytes()
    ids = np.arange(h * w, dtype=np.uint8).reshape(h, w) % 200
    height, width = (max(1, round(side * scale)) for side in (h, w))
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    nearest = np.array(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
    pixels, labels = np.zeros((size, size, 3), np.uint8), np.full((size, size), 255)
    starts = []
    for side, place in zip((height, width), (y, x), strict=True):
        choices = abs(size - side) + 1
        start = min(int(place * choices), choices - 1)
        starts.append(start if side <= size else -start)
    for row, column in np.ndindex(height, width):
        place = row + starts[0], column + starts[1]
        if min(place) >= 0 and max(place) < size:
            source = width - 1 - column if mirrored else column
            pixels[place] = resized[row, source]
            labels[place] = nearest[row, source]
    draws = Draws(0.2 if mirrored else 0.8, (y, x))
    window, (top, left, bottom, right), label = random_pair(image, ids, draws, scale, size)
    assert window.dtype == label.dtype == np.uint8
    np.testing.assert_array_equal(window, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(label, labels)
    covered = np.zeros((size, size), bool)
    covered[top:bottom, left:right] = True
    np.testing.assert_array_equal(covered, labels != 255)
    assert image.tobytes() == before


def test_long_side_has_exactly_the_drawn_length_and_both_ends_occur():
    image, seen = noise(10, 7), []
    for seed in range(120):
        window, box = random_view(image, np.random.default_rng(seed), 20, 24, 64)
        height, width = box[2] - box[0], box[3] - box[1]
        assert width == round(7 * (height / 10))
        seen.append(int(height))
        assert (window.shape, box.dtype) == ((3, 64, 64), np.int64)
    assert set(seen) == {20, 21, 22, 23, 24}


def test_half_of_the_views_are_mirrored_and_all_places_occur():
    image = Image.fromarray(np.tile(np.arange(1, 5, dtype=np.uint8)[None, :, None], (4, 1, 3)))
    mirrored, places = 0, set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        window, box = random_view(image, rng, 4, 4, 6)
        row = window[0, box[0], box[1] : box[3]]
        assert row.tolist() in ([1, 2, 3, 4], [4, 3, 2, 1])
        mirrored += row[0] == 4
        places.add((int(box[0]), int(box[1])))
    assert 160 < mirrored < 240
    assert places == {(y, x) for y in range(3) for x in range(3)}
    following = set()
    for shape in ((10, 12), (400, 2)):  # as many draws, whatever the picture
        rng = np.random.default_rng(1)
        random_view(noise(*shape), rng, 16, 40, 32)
        following.add(rng.random())
    assert len(following) == 1


@pytest.mark.parametrize(
    ("height", "width", "scale", "expected"),
    [
        (375, 500, 0.5, (188, 250)),  # 187.5 up
        (333, 501, 1.5, (500, 752)),  # 499.5, 751.5
        (1, 5, 0.1, (1, 1)),
    ],
)
def test_sides_are_rounded_half_to_even_and_never_zero(height, width, scale, expected):
    image = noise(height, width)
    scaled = rescale(image, scale)
    assert scaled.size[::-1] == expected
    resized = image.resize(expected[::-1], Image.Resampling.BICUBIC)
    assert scaled.tobytes() == resized.tobytes()
    with pytest.raises(InputError, match=f"{width}x{height} pixels"):
        rescale(image, 1e30)


def test_scale_is_chosen_or_lies_between():
    rng = np.random.default_rng(0)
    chosen = {random_scale(rng, [0.5, 1.0, 1.5], "choice") for _ in range(60)}
    assert chosen == {0.5, 1.0, 1.5}
    drawn = [random_scale(rng, [1.5, 0.5], "uniform") for _ in range(60)]
    assert 0.5 <= min(drawn) < 0.6
    assert 1.4 < max(drawn) <= 1.5


# ---------------------------------------------------------------------------- network input


def test_normalise_against_float64_for_every_value_and_channel():
    pixels = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    plain = np.arange(256, dtype=np.float64) / 255
    means, deviations = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None]
    result = normalise(pixels)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result[1, :, 0].numpy(), (plain - means) / deviations, atol=1e-6)


BOXES = torch.tensor([[0, 0, 64, 64], [5, 0, 33, 64], [17, 31, 18, 33], [1, 1, 16, 16]])


@pytest.mark.parametrize("size", [64, 60, 50])
def test_inside_is_the_box_and_at_stride_16_its_top_left_pixels(size):
    boxes, samples = BOXES.clamp(max=size), -(-size // 16)
    full, small = inside(boxes, size, size), inside(boxes, size, samples)
    plain = torch.zeros(4, 1, size, size)
    for number, (top, left, bottom, right) in enumerate(boxes.tolist()):
        plain[number, 0, top:bottom, left:right] = 1
    assert torch.equal(full, plain)
    assert torch.equal(small, F.interpolate(full, (samples, samples), mode="nearest"))


def test_network_input_pads_with_zeros_after_normalisation():
    window = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    box = torch.tensor([[0, 4, 20, 32], [0, 0, 32, 32]])
    label = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.uint8)
    arguments = window, box, label
    before = [argument.clone() for argument in arguments]
    img, mask = prepare(window, box), Method(2).valid_mask(box, 32, label)
    assert all(map(torch.equal, before, arguments))
    assert torch.equal(img, normalise(window) * inside(box, 32, 32))
    assert mask.dtype == img.dtype == torch.float32
    # Cells start at pixels 0 and 16: the box of the first picture misses the first column.
    cells = torch.tensor([[[0, 1], [0, 1]], [[1, 1], [1, 1]]]).float()
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0]]).float()
    assert torch.equal(mask, cells[:, None] * present[:, :, None, None])
