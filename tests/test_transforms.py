"""Geometry, normalisation and padding of the training window, against plain versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.transforms import (
    random_pair,
    random_scale,
    random_view,
    rescale,
    resize,
)
from net.inputs import IMAGENET_MEAN, IMAGENET_STD, inside, normalise, prepare
from net.resnet50_SIPE import valid_mask
from tool.errors import InputError


class Draws:
    """A source of chance whose draws are written down."""

    def __init__(self, long_side: int, mirror: float, place: tuple[float, float]) -> None:
        self.long_side, self.mirror, self.place = long_side, mirror, place

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        assert endpoint
        assert low <= self.long_side <= high
        return self.long_side

    def random(self, n: int | None = None):
        return self.mirror if n is None else np.array(self.place)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a picture without zeros, so that padding shows."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def plain_view(image: Image.Image, draws: Draws, size: int):
    """Place the resized picture pixel by pixel, as the text says, on a (size, size, 3) of zeros."""
    scale = draws.long_side / max(image.size)
    height, width = (max(1, round(side * scale)) for side in (image.height, image.width))
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    window = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), bool)
    starts = []
    for side, place in zip((height, width), draws.place, strict=True):
        choices = abs(size - side) + 1
        start = min(int(place * choices), choices - 1)
        starts.append(start if side <= size else -start)
    for y in range(height):
        for x in range(width):
            row, column = y + starts[0], x + starts[1]
            if 0 <= row < size and 0 <= column < size:
                source = width - 1 - x if draws.mirror < 0.5 else x
                window[row, column] = resized[y, source]
                covered[row, column] = True
    return window, covered


@pytest.mark.parametrize("mirror", [0.2, 0.8])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.999, 0.999), (0.3, 0.7)])
@pytest.mark.parametrize(
    ("height", "width", "long_side"),
    [
        *((20, 30, 24), (20, 30, 48), (30, 20, 48), (50, 50, 32), (33, 7, 40), (1, 1, 32)),
        *((1, 40, 36), (9, 31, 33)),
    ],
)
def test_view_is_scaled_mirrored_and_placed_as_the_plain_version(
    height, width, long_side, place, mirror
):
    size = 32
    image, draws = noise(height, width), Draws(long_side, mirror, place)
    window, box = random_view(image, draws, 16, 64, size)
    plain, covered = plain_view(image, draws, size)
    assert window.shape == (3, size, size)
    assert window.dtype == np.uint8
    assert box.dtype == np.int64
    np.testing.assert_array_equal(window, plain.transpose(2, 0, 1))
    top, left, bottom, right = box
    from_box = np.zeros((size, size), bool)
    from_box[top:bottom, left:right] = True
    np.testing.assert_array_equal(from_box, covered)
    assert (window[:, ~from_box] == 0).all()


def test_long_side_has_exactly_the_drawn_length_and_both_ends_occur():
    image, seen = noise(10, 7), []
    for seed in range(120):
        _, box = random_view(image, np.random.default_rng(seed), 20, 24, 64)
        height, width = box[2] - box[0], box[3] - box[1]
        assert width == round(7 * (height / 10))
        seen.append(int(height))
    assert set(seen) == {20, 21, 22, 23, 24}


def test_half_of_the_views_are_mirrored_and_all_places_occur():
    image = Image.fromarray(np.tile(np.arange(1, 5, dtype=np.uint8)[None, :, None], (4, 1, 3)))
    mirrored, places = 0, set()
    for seed in range(400):
        window, box = random_view(image, np.random.default_rng(seed), 4, 4, 6)
        row = window[0, box[0], box[1] : box[3]]
        assert row.tolist() in ([1, 2, 3, 4], [4, 3, 2, 1])
        mirrored += row[0] == 4
        places.add((int(box[0]), int(box[1])))
    assert 160 < mirrored < 240
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_all_crops_occur():
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).convert("RGB")
    draws = (random_view(image, np.random.default_rng(s), 6, 6, 4)[0] for s in range(300))
    corners = {int(min(window[0, 0, 0], window[0, 0, -1])) for window in draws}
    assert corners == {6 * y + x for y in range(3) for x in range(3)}


@pytest.mark.parametrize("shape", [(3, 5), (400, 2), (64, 64)])
def test_number_of_draws_does_not_depend_on_the_picture(shape):
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    random_view(noise(*shape), rng, 16, 40, 32)
    random_view(noise(10, 12), other, 16, 40, 32)
    assert rng.random() == other.random()


def test_view_leaves_the_picture_alone():
    image = noise(12, 9)
    before = image.tobytes()
    random_view(image, Draws(12, 0.0, (0, 0)), 12, 12, 16)
    assert image.tobytes() == before


@pytest.mark.parametrize(
    ("height", "width", "scale", "expected"),
    [
        *((375, 500, 0.5, (188, 250)), (333, 500, 0.5, (166, 250))),  # 187.5 up, 166.5 down
        *((333, 501, 1.5, (500, 752)), (335, 500, 1.5, (502, 750))),  # 499.5, 751.5, 502.5
        *((3, 5, 2.0, (6, 10)), (1, 1, 0.5, (1, 1)), (1, 5, 0.1, (1, 1)), (7, 9, 1.0, (7, 9))),
    ],
)
def test_sides_are_rounded_half_to_even_and_never_zero(height, width, scale, expected):
    assert rescale(noise(height, width), scale).size[::-1] == expected


def test_rescaling_by_one_keeps_every_pixel():
    image = noise(5, 8)
    assert rescale(image, 1.0).tobytes() == image.tobytes()


def test_resize_is_pillows_bicubic_with_height_first():
    image = noise(9, 14)
    small = resize(image, 5, 6)
    assert small.size == (6, 5)
    assert small.tobytes() == image.resize((6, 5), Image.Resampling.BICUBIC).tobytes()
    assert small.tobytes() != image.resize((6, 5), Image.Resampling.BILINEAR).tobytes()


def test_normalise_against_float64_for_every_value_and_channel():
    pixels = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    plain = np.arange(256, dtype=np.float64) / 255
    result = normalise(pixels)
    assert result.dtype == torch.float32
    assert result.shape == (2, 3, 1, 256)
    for channel, (mean, deviation) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        expected = (plain - mean) / deviation
        np.testing.assert_allclose(result[1, channel, 0].numpy(), expected, atol=1e-6)
    assert torch.equal(normalise(pixels[0]), result[0])  # without the batch too
    assert (IMAGENET_MEAN[0], IMAGENET_STD[0]) == (0.485, 0.229)


BOXES = torch.tensor([[0, 0, 64, 64], [5, 0, 33, 64], [17, 31, 18, 33], [1, 1, 16, 16]])


def test_inside_at_full_size_is_the_box():
    mask = inside(BOXES, 64, 64)
    plain = torch.zeros(4, 1, 64, 64)
    for number, (top, left, bottom, right) in enumerate(BOXES.tolist()):
        plain[number, 0, top:bottom, left:right] = 1
    assert mask.dtype == torch.float32
    assert torch.equal(mask, plain)


@pytest.mark.parametrize("size", [64, 60, 65, 50])
def test_inside_at_stride_16_is_nearest_sampling_of_the_full_mask(size):
    boxes, samples = BOXES.clamp(max=size), -(-size // 16)
    full, small = inside(boxes, size, size), inside(boxes, size, samples)
    assert torch.equal(small, F.interpolate(full, (samples, samples), mode="nearest"))
    for i in range(samples):
        for j in range(samples):
            pixel = full[:, 0, i * size // samples, j * size // samples]
            assert torch.equal(small[:, 0, i, j], pixel)


def test_inside_looks_at_the_top_left_pixel_of_each_cell():
    one_late = torch.tensor([[1, 0, 64, 64]])  # the first row of cells misses its first pixel
    assert inside(one_late, 64, 4)[0, 0, :, 0].tolist() == [0, 1, 1, 1]
    one_more = torch.tensor([[0, 0, 64, 17]])  # one pixel into the second column
    assert inside(one_more, 64, 4)[0, 0, 0].tolist() == [1, 1, 0, 0]


def test_network_input_pads_with_zeros_after_normalisation():
    window = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    box = torch.tensor([[0, 4, 20, 32], [0, 0, 32, 32]])
    label = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.uint8)
    img, mask = prepare(window, box), valid_mask(box, 32, label)
    full = inside(box, 32, 32).bool().expand(2, 3, 32, 32)
    assert (img[~full] == 0).all()
    assert torch.equal(img[full], normalise(window)[full])
    assert mask.dtype == img.dtype == torch.float32
    assert mask.shape == (2, 4, 2, 2)
    # Cells start at pixels 0 and 16: the box of the first picture misses the first column.
    cells = torch.tensor([[[0, 1], [0, 1]], [[1, 1], [1, 1]]]).float()
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0]]).float()
    assert torch.equal(mask, cells[:, None] * present[:, :, None, None])


def test_network_input_edits_none_of_its_arguments():
    window = torch.from_numpy(np.array(noise(16, 16))).permute(2, 0, 1)[None]
    arguments = window, torch.tensor([[3, 0, 16, 9]]), torch.tensor([[1, 0]])
    before = [argument.clone() for argument in arguments]
    prepare(*arguments[:2])
    valid_mask(arguments[1], 16, arguments[2])
    assert all(map(torch.equal, before, arguments))


@pytest.mark.parametrize(("size", "cells"), [(512, 32), (64, 4), (65, 5), (50, 4)])
def test_mask_has_the_size_of_the_feature_map(size, cells):
    mask = valid_mask(torch.tensor([[0, 0, size, size]]), size, torch.ones(1, 2))
    assert mask.shape == (1, 3, cells, cells)


# ---------------------------------------------------------------------------- with labels


def test_scale_is_chosen_or_lies_between():
    rng = np.random.default_rng(0)
    chosen = {random_scale(rng, [0.5, 1.0, 1.5], "choice") for _ in range(60)}
    assert chosen == {0.5, 1.0, 1.5}
    drawn = [random_scale(rng, [1.5, 0.5], "uniform") for _ in range(60)]
    assert 0.5 <= min(drawn) < 0.6
    assert 1.4 < max(drawn) <= 1.5


@pytest.mark.parametrize(("scale", "size"), [(0.5, 30), (1.5, 20), (1.0, 24)])
def test_pair_moves_together_and_is_filled(scale, size):
    label = np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3), 12, 0), 12, 1)
    image = Image.fromarray(np.stack([label * 20] * 3, -1))
    filled = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        window, box, ids = random_pair(image, label, rng, scale, size)
        inner = np.zeros((size, size), bool)
        inner[box[0] : box[2], box[1] : box[3]] = True
        assert (ids[~inner] == 255).all()
        assert (window[:, ~inner] == 0).all()
        assert (ids[inner] < 6).all()
        agree = abs(window[0][inner] / 20 - ids[inner]) < 0.5  # blurred along borders
        assert agree.mean() > 0.75
        filled += (~inner).sum()
    assert (filled > 0) == (min(label.shape) * scale < size)


@pytest.mark.parametrize("scale", [1e5, 1e30])
def test_a_picture_that_would_be_too_large_is_refused(scale):
    with pytest.raises(InputError, match=r"A picture of 4x3 pixels would become 4.*smaller"):
        rescale(Image.new("RGB", (4, 3)), scale)
