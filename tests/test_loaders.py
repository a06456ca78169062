"""Loaders: nothing may depend on workers or restarts, and no picture may be lost or repeated."""

import numpy as np
import pytest
import torch
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
from tool.errors import InputError
from tool.pictures import read_rgb

SIZE, SMALLEST, LARGEST = 48, 30, 70


@pytest.fixture
def folder(tiny) -> Folder:
    return Folder(tiny)


def pictures_of(folder: Folder, seed: int = 15) -> ClassificationPictures:
    return ClassificationPictures(folder, folder.ids("train"), SIZE, SMALLEST, LARGEST, seed)


def batches(folder, workers=0, seed=15, epochs=3, start=0, batch_size=2):
    pictures = pictures_of(folder, seed)
    schedule = Schedule(len(pictures), batch_size, epochs, seed, start)
    return list(training_loader(pictures, schedule, workers))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 8])
def test_workers_change_no_byte(folder, workers):
    alone, shared = batches(folder), batches(folder, workers)
    assert len(alone) == len(shared) == 9
    assert all(map(same, alone, shared))


@pytest.mark.parametrize("start", [1, 3, 5, 8])
def test_restart_in_the_middle_of_an_epoch_gives_the_remaining_batches(folder, start):
    whole, rest = batches(folder), batches(folder, start=start)
    assert len(rest) == 9 - start
    assert all(map(same, whole[start:], rest))


def test_sample_is_uint8_and_has_no_mask_of_floats(folder):
    sample = pictures_of(folder)[0, 0]
    layout = {name: (value.dtype.name, value.shape) for name, value in sample.items()}
    assert layout == {
        "window": ("uint8", (3, SIZE, SIZE)),
        "box": ("int64", (4,)),
        "label": ("uint8", (3,)),
    }
    batch = batches(folder)[0]
    assert {name: value.dtype for name, value in batch.items()} == {
        "window": np.uint8,
        "box": np.int64,
        "label": np.uint8,
    }
    assert batch["window"].shape == (2, 3, SIZE, SIZE)


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


def test_augmentation_is_a_function_of_seed_epoch_and_index(folder):
    pictures, again = pictures_of(folder), pictures_of(folder)
    first = pictures[1, 2]
    pictures[0, 0], pictures[5, 3]  # what came before does not matter
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - chance from outside must not matter
    for other in (pictures[1, 2], again[1, 2]):
        assert all(np.array_equal(first[name], other[name]) for name in first)


def test_every_epoch_picture_and_seed_is_augmented_differently(folder):
    windows = [pictures_of(folder)[epoch, 1]["window"].tobytes() for epoch in range(6)]
    windows += [pictures_of(folder, seed)[0, 1]["window"].tobytes() for seed in range(6)]
    assert len(set(windows)) == 12
    boxes = {tuple(pictures_of(folder)[0, index]["box"]) for index in range(6)}
    assert len(boxes) > 3


def test_seed_changes_the_order_too():
    orders = [list(Schedule(50, 5, 1, seed)) for seed in (15, 16)]
    assert orders[0] != orders[1]
    assert orders[0] == list(Schedule(50, 5, 1, 15))


@pytest.mark.parametrize(("pictures", "batch_size"), [(12, 4), (13, 4), (15, 4), (4, 4), (7, 1)])
def test_every_picture_at_most_once_an_epoch_and_the_partial_batch_is_dropped(pictures, batch_size):
    schedule = Schedule(pictures, batch_size, epochs=3, seed=1)
    steps = list(schedule)
    per_epoch = pictures // batch_size
    assert len(steps) == len(schedule) == schedule.total == 3 * per_epoch
    assert {len(step) for step in steps} == {batch_size}
    orders = []
    for epoch in range(3):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        keys = [key for step in own for key in step]
        assert {key[0] for key in keys} == {epoch}
        indices = [key[1] for key in keys]
        assert len(set(indices)) == len(indices) == per_epoch * batch_size
        assert set(indices) <= set(range(pictures))
        orders.append(indices)
    if pictures > 4:
        assert orders[0] != orders[1] != orders[2]


def test_partial_batch_drops_other_pictures_each_epoch():
    steps = list(Schedule(10, 4, epochs=40, seed=0))
    dropped = [
        set(range(10)) - {i for _, i in steps[2 * epoch] + steps[2 * epoch + 1]}
        for epoch in range(40)
    ]
    assert {len(left) for left in dropped} == {2}
    assert set.union(*dropped) == set(range(10))


def test_published_number_of_steps():
    assert Schedule(10_582, 16, 5, seed=15).total == 3305
    assert Schedule(82_081, 16, 5, seed=15).total == 25_650


def test_schedule_at_its_ends():
    assert list(Schedule(6, 2, 2, 0, start=6)) == []
    assert len(Schedule(6, 2, 2, 0, start=6)) == 0
    assert list(Schedule(3, 4, 5, 0)) == []  # fewer pictures than a batch
    schedule = Schedule(6, 2, 2, 0, start=2)
    assert list(schedule) == list(schedule)  # can be gone through twice


def test_scaled_pictures_have_the_sizes_and_pixels_of_the_rule(folder):
    scales = (1.0, 0.5, 1.5, 2.0)
    ids = ["b", "d"]  # 41 and 43 high
    pictures = ScaledPictures(folder, ids, scales)
    assert len(pictures) == 2
    for index, height in enumerate((41, 43)):
        item = pictures[index]
        assert item["id"] == ids[index]
        assert item["size"] == (height, 48)
        sizes = [tuple(picture.shape) for picture in item["pictures"]]
        halves = {41: (20, 62), 43: (22, 64)}[height]  # 20.5, 61.5; 21.5, 64.5: half to even
        expected = [(height, 48), (halves[0], 24), (halves[1], 72), (2 * height, 96)]
        assert sizes == [(3, *size) for size in expected]
        assert {picture.dtype for picture in item["pictures"]} == {np.dtype(np.uint8)}
        image = read_rgb(folder.image_path(ids[index]))
        for scale, picture in zip(scales, item["pictures"], strict=True):
            plain = np.array(rescale(image, scale)).transpose(2, 0, 1)
            np.testing.assert_array_equal(picture, plain)
        assert item["label"].tolist() == folder.labels([ids[index]])[0].tolist()
        assert "original" not in item


def test_original_is_handed_over_for_drawing(folder):
    pictures = ScaledPictures(folder, ["c"], (0.5,), with_original=True)
    (item,) = one_by_one(pictures, 0)
    assert item["original"].dtype == np.uint8
    expected = np.array(Image.open(folder.image_path("c")))
    np.testing.assert_array_equal(item["original"], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_by_one_keeps_order_and_adds_no_batch_axis(folder, workers):
    ids = ["f", "a", "d", "b"]
    items = list(one_by_one(ScaledPictures(folder, ids, (1.0, 0.5)), workers))
    assert [item["id"] for item in items] == ids
    for item in items:
        height, width = item["size"]
        assert item["pictures"][0].shape == (3, height, width)
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


def test_tensor_has_channels_first_and_owns_its_memory():
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    tensor = torch.from_numpy(channels_first(image))
    assert tensor[:, 0, 1].tolist() == [3, 4, 5]
    tensor.zero_()
    assert image.getpixel((1, 0)) == (3, 4, 5)


def test_broken_picture_is_named(folder):
    path = folder.image_path("c")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"c\.png"):
        list(one_by_one(ScaledPictures(folder, ["a", "c"], (1.0,)), 0))


def test_a_number_of_steps_goes_through_as_many_epochs_as_it_takes():
    by_epochs, by_total = Schedule(7, 2, 3, 0), Schedule(7, 2, None, 0, total=8)
    assert len(by_total) == 8
    assert list(by_total) == list(by_epochs)[:8]
    mine = Schedule(7, 4, None, 0, rows=np.array([1, 3]), total=2)
    whole = list(Schedule(7, 4, None, 0, total=2))
    assert list(mine) == [[batch[1], batch[3]] for batch in whole]


def segmentation_pictures(folder: Folder, tiny, **settings) -> SegmentationPictures:
    recipe = {"model": "deeplabv1_resnet38", "scales": [0.5, 1.5], "scale_draw": "uniform"}
    recipe |= {"resample": "bicubic", "hsv_shift": 0, "seed": 15, **settings}
    return SegmentationPictures(folder, folder.ids("train"), tiny / "masks", size=SIZE, **recipe)


@pytest.mark.parametrize("model", MODELS)
def test_segmentation_samples_are_functions_of_seed_epoch_and_index(folder, tiny, model):
    pictures = segmentation_pictures(folder, tiny, model=model)
    sample = pictures[2, 3]
    assert {name: (value.shape, value.dtype.name) for name, value in sample.items()} == {
        "window": ((3, SIZE, SIZE), "float32"),
        "label": ((SIZE, SIZE), "uint8"),
    }
    again = segmentation_pictures(folder, tiny, model=model)[2, 3]
    assert all(np.array_equal(sample[name], again[name]) for name in sample)
    for other in (pictures[3, 3], segmentation_pictures(folder, tiny, model=model, seed=1)[2, 3]):
        assert not np.array_equal(sample["window"], other["window"])


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
    pictures = ScaledPictures(
        *(folder, folder.ids("train"), (1.0, 0.5)),
        with_original=True,
        with_label=False,
        max_pixels=500,
    )
    item = pictures[0]
    assert "label" not in item
    assert item["size"] == (40, 48)
    reduced = rescale(folder.read(pictures.ids[0]), (500 / (40 * 48)) ** 0.5)
    assert np.array_equal(item["original"], np.array(reduced))
    assert item["pictures"][0].shape == (3, *item["original"].shape[:2]) == (3, 20, 24)
    assert np.array_equal(item["pictures"][1], channels_first(rescale(reduced, 0.5)))


def test_hsv_shifts_are_whole_numbers_and_both_ends_occur(folder, tiny):
    shifts = []
    pictures = segmentation_pictures(folder, tiny, hsv_shift=10)
    pictures.sample = lambda picture, label, rng, scale, shift, *rest: (shifts.append(shift), label)
    for epoch in range(300):
        pictures[epoch, 0]
    for channel in np.array(shifts).T:
        assert set(channel.tolist()) == set(range(-10, 11))


def test_scales_are_drawn_as_the_recipes_say(folder, tiny):
    drawn = {}
    for model, recipe in MODELS.items():
        settings = {name: getattr(recipe.training, name) for name in ("scales", "scale_draw")}
        pictures = segmentation_pictures(folder, tiny, model=model, **settings)
        scales = drawn[model] = []
        pictures.sample = lambda *given, scales=scales: (scales.append(given[3]), given[1])
        for epoch in range(200):
            pictures[epoch, 0]
    listed, between = drawn.values()
    assert set(listed) == {0.5, 0.75, 1.0, 1.25, 1.5}
    assert min(map(listed.count, listed)) > 20
    assert 0.5 <= min(between) < 0.55
    assert 1.45 < max(between) < 1.5
