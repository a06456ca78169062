"""Loaders: nothing may depend on workers or restarts, and no picture may be lost or repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.folder import Folder
from data.loaders import (
    ClassificationPictures,
    ScaledPictures,
    Schedule,
    SegmentationPictures,
    channels_first,
    one_by_one,
    training_loader,
)
from data.transforms import rescale
from make_cam import infer
from net.inputs import IMAGENET_MEAN, IMAGENET_STD, prepare
from net.recipes import MODELS
from tool.pictures import read_rgb

SIZE, SMALLEST, LARGEST = 48, 30, 70
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def folder(tiny) -> Folder:
    return Folder(tiny)


def pictures_of(folder: Folder, seed: int = 15) -> ClassificationPictures:
    return ClassificationPictures(folder, folder.ids("train"), SIZE, SMALLEST, LARGEST, seed)


def segmentation_pictures(folder: Folder, tiny, **changes) -> SegmentationPictures:
    recipe = {"model": "deeplabv1_resnet38", "scales": [0.5, 1.5], "scale_draw": "uniform"}
    recipe |= {"resample": "bicubic", "hsv_shift": 0, "seed": 15, **changes}
    return SegmentationPictures(folder, folder.ids("train"), tiny / "masks", size=SIZE, **recipe)


def batches(folder, workers=0, seed=15, epochs=3, start=0, batch_size=2):
    pictures = pictures_of(folder, seed)
    schedule = Schedule(len(pictures), batch_size, epochs, seed, start)
    return list(training_loader(pictures, schedule, workers))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_restarts_change_no_byte(folder):
    whole = batches(folder)
    assert len(whole) == 9
    found = {name: (*value.shape, value.dtype.name) for name, value in whole[0].items()}
    assert found == {name: (2, *form) for name, form in CLASSIFICATION.items()}
    for workers, start in ((8, 0), (0, 3), (1, 5), (0, 8)):  # an epoch has 3 batches
        rest = batches(folder, workers, start=start)
        assert len(rest) == 9 - start
        assert all(map(same, whole[start:], rest))


CLASSIFICATION = {
    "window": (3, SIZE, SIZE, "uint8"),
    "box": (4, "int64"),
    "label": (3, "uint8"),
}
SEGMENTATION = {"window": (3, SIZE, SIZE, "float32"), "label": (SIZE, SIZE, "uint8")}


@pytest.mark.parametrize(
    ("kind", "form"),
    [("classification", CLASSIFICATION), *((model, SEGMENTATION) for model in MODELS)],
)
def test_samples_are_functions_of_seed_epoch_and_index(folder, tiny, kind, form):
    def pictures(seed=15):
        if kind == "classification":
            return pictures_of(folder, seed)
        return segmentation_pictures(folder, tiny, model=kind, seed=seed)

    one = pictures()
    first = one[1, 2]
    assert {name: (*value.shape, value.dtype.name) for name, value in first.items()} == form
    one[0, 0], one[5, 3]  # what came before does not matter
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - chance from outside must not matter
    assert same(first, one[1, 2])
    assert same(first, pictures()[1, 2])
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    windows = [pictures(seed)[key]["window"].tobytes() for seed in (15, 16) for key in keys]
    assert len(set(windows)) == len(windows)


def test_label_and_picture_belong_to_the_same_id(folder):
    ids = ["d", "a", "e"]
    pictures = ClassificationPictures(folder, ids, 48, 48, 48, seed=0)
    assert [pictures[0, i]["label"].tolist() for i in range(3)] == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    for index, image_id in enumerate(ids):
        sample = pictures[0, index]
        top, left, bottom, right = sample["box"]
        inner = sample["window"][:, top:bottom, left:right].transpose(1, 2, 0)
        picture = np.array(read_rgb(folder.image_path(image_id)))  # 48 wide, so not resized
        assert any(np.array_equal(inner, candidate) for candidate in (picture, picture[:, ::-1]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), SEEDS, st.integers(0, 30))
def test_schedule_shows_every_picture_at_most_once_an_epoch(pictures, batch, epochs, seed, start):
    batch = min(batch, pictures)
    schedule = Schedule(pictures, batch, epochs, seed)
    whole, steps = list(schedule), pictures // batch
    assert len(whole) == len(schedule) == schedule.total == steps * epochs
    for epoch in range(epochs):
        shown = [i for step in whole[epoch * steps : (epoch + 1) * steps] for i in step]
        assert {e for e, _ in shown} == {epoch}
        assert len({i for _, i in shown}) == len(shown) == steps * batch
        assert all(0 <= i < pictures for _, i in shown)
    start = min(start, len(whole))
    rest = Schedule(pictures, batch, epochs, seed, start)
    assert list(rest) == list(rest) == whole[start:]  # can be gone through twice
    by_total = Schedule(pictures, batch, None, seed, start, total=len(whole))
    assert list(by_total) == whole[start:]
    rows = np.arange(batch)[::2]
    mine = Schedule(pictures, batch, epochs, seed, start, rows=rows)
    assert list(mine) == [[step[row] for row in rows] for step in whole[start:]]


def test_order_depends_on_seed_and_epoch():
    """So do the pictures that a partial batch leaves out."""
    orders = [list(Schedule(50, 5, 2, seed)) for seed in (15, 16)]
    indices = [[[i for _, i in step] for step in order] for order in orders]
    assert indices[0][:10] != indices[1][:10]
    assert indices[0][:10] != indices[0][10:]
    steps = list(Schedule(10, 4, epochs=40, seed=0))
    dropped = set()
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        dropped |= set(range(10)) - {i for _, i in first + second}
    assert dropped == set(range(10))
    assert Schedule(10_582, 16, 5, seed=15).total == 3305  # as published
    assert Schedule(82_081, 16, 5, seed=15).total == 25_650
    assert list(Schedule(3, 4, 5, 0)) == []  # fewer pictures than a batch


def test_scaled_pictures_have_the_sizes_and_pixels_of_the_rule(folder):
    scales = (1.0, 0.5, 1.5, 2.0)
    expected = {  # half to even: 20.5, 61.5; 21.5, 64.5
        "b": [(3, 41, 48), (3, 20, 24), (3, 62, 72), (3, 82, 96)],
        "d": [(3, 43, 48), (3, 22, 24), (3, 64, 72), (3, 86, 96)],
    }
    pictures = ScaledPictures(folder, list(expected), scales)
    assert len(pictures) == 2
    for item, (image_id, shapes) in zip(pictures, expected.items(), strict=False):
        assert (item["id"], item["size"]) == (image_id, shapes[0][1:])
        assert np.array_equal(item["label"], folder.labels([image_id])[0])
        assert [picture.shape for picture in item["pictures"]] == shapes
        image = read_rgb(folder.image_path(image_id))
        for scale, picture in zip(scales, item["pictures"], strict=True):
            assert picture.dtype == np.uint8
            plain = np.array(rescale(image, scale)).transpose(2, 0, 1)
            np.testing.assert_array_equal(picture, plain)
        assert item["label"].tolist() == folder.labels([image_id])[0].tolist()
        assert "original" not in item


def test_one_by_one_keeps_order_and_adds_no_batch_axis(folder):
    ids = ["f", "a", "d", "b"]
    pictures = ScaledPictures(folder, ids, (1.0, 0.5), with_original=True)
    for workers in (0, 2):
        items = list(one_by_one(pictures, workers))
        assert [item["id"] for item in items] == ids
        for item in items:
            original = np.array(Image.open(folder.image_path(item["id"])))
            np.testing.assert_array_equal(item["original"], original)
            assert item["pictures"][0].shape == (3, *item["size"])
            assert item["label"].shape == (3,)


def test_inference_pairs_every_scale_with_its_mirror(folder):
    seen = []

    def net(pair, label):
        seen.append(pair)
        maps = torch.rand(4, -(-pair.shape[2] // 16), -(-pair.shape[3] // 16))
        return maps, maps

    item = ScaledPictures(folder, ["a"], (1.0, 0.5))[0]
    net.prepare = prepare
    pictures = [torch.from_numpy(picture)[None] for picture in item["pictures"]]
    infer(net, pictures, torch.tensor([[1, 1, 0, 0]]))
    assert [tuple(pair.shape) for pair in seen] == [(2, 3, 40, 48), (2, 3, 20, 24)]
    for pair in seen:
        assert torch.equal(pair[1], pair[0].flip(2))
        assert not torch.equal(pair[1], pair[0])


def test_colours_shift_and_stay_where_their_label_is(folder, tiny):
    reds = []
    for epoch in range(12):
        item = segmentation_pictures(folder, tiny, hsv_shift=10)[epoch, 0]
        mean, deviation = (np.array(v)[:, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        red = (item["window"][:, item["label"] == 1] * deviation + mean) * 255
        if red.shape[1] > 20:
            reds.append(np.median(red, 1))
            assert (red[0] > red[1:].max(0) + 40).mean() > 0.85
    assert np.ptp(reds, 0).max() > 5  # it is (200, 40, 40)


def test_large_pictures_are_reduced_first(folder):
    ids = folder.ids("train")
    only = {"with_original": True, "with_label": False, "max_pixels": 500}
    pictures = ScaledPictures(folder, ids, (1.0, 0.5), **only)
    item = pictures[0]
    assert "label" not in item
    assert item["size"] == (40, 48)
    reduced = rescale(folder.read(pictures.ids[0]), (500 / (40 * 48)) ** 0.5)
    assert np.array_equal(item["original"], np.array(reduced))
    assert item["pictures"][0].shape == (3, *item["original"].shape[:2]) == (3, 20, 24)
    assert np.array_equal(item["pictures"][1], channels_first(rescale(reduced, 0.5)))


def drawn(folder, tiny, epochs: int, **changes) -> tuple[list, list]:
    """Return the scales and the shifts of colour that are drawn for a picture."""
    scales, shifts = [], []
    pictures = segmentation_pictures(folder, tiny, **changes)

    def note(picture, label, rng, scale, shift, *rest):
        scales.append(scale)
        shifts.append(shift)
        return picture, label

    pictures.sample = note
    for epoch in range(epochs):
        pictures[epoch, 0]
    return scales, shifts


def test_scales_and_shifts_are_drawn_as_the_recipes_say(folder, tiny):
    found = []
    for model, recipe in MODELS.items():
        asked = {name: getattr(recipe.training, name) for name in ("scales", "scale_draw")}
        scales, shifts = drawn(folder, tiny, 300, model=model, hsv_shift=10, **asked)
        found.append(scales)
        for channel in np.array(shifts).T:
            assert set(channel.tolist()) == set(range(-10, 11))
    listed, between = found
    assert set(listed) == {0.5, 0.75, 1.0, 1.25, 1.5}
    assert min(map(listed.count, listed)) > 30
    assert 0.5 <= min(between) < 0.55
    assert 1.45 < max(between) < 1.5
