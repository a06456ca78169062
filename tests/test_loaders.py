"""Loaders: nothing may depend on workers or restarts, and no picture may be lost or repeated."""

import math
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from data import loaders
from data.folder import Folder
from data.loaders import (
    ClassificationPictures,
    Schedule,
    SegmentationPictures,
    ahead,
    one_by_one,
    plain_picture,
    repeats,
    scaled_picture,
    training_loader,
)
from data.transforms import rescale
from net.recipes import MODELS
from tests.pretend_gpu import pretend_gpus
from tool import distributed
from tool.errors import InputError

SIZE = 48
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def folder(tiny) -> Folder:
    return Folder(tiny)


def pictures_of(folder: Folder, seed: int = 15) -> ClassificationPictures:
    return ClassificationPictures(folder, folder.ids("train"), SIZE, seed, 30, 70)


def segmentation_pictures(folder: Folder, model: str, seed: int = 15) -> SegmentationPictures:
    how, masks = replace(MODELS[model].training, hsv_shift=10), folder.root / "masks"
    return SegmentationPictures(folder, folder.ids("train"), SIZE, seed, masks, model, how)


def channels_first(image: Image.Image) -> np.ndarray:
    return np.array(image).transpose(2, 0, 1)


def batches(folder, workers=0, start=0) -> list[dict]:
    pictures = pictures_of(folder)
    schedule = Schedule(len(pictures), 2, 3, 15, start)
    return list(training_loader(pictures, schedule, workers))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_restarts_change_no_byte(folder):
    whole = batches(folder)
    assert len(whole) == 9
    for workers, start in ((8, 0), (0, 3), (1, 5)):  # an epoch has 3 batches
        rest = batches(folder, workers, start)
        assert len(rest) == 9 - start
        assert all(map(same, whole[start:], rest))


CLASSIFICATION = {"window": (3, SIZE, SIZE, "uint8"), "box": (4, "int64"), "label": (3, "uint8")}
SEGMENTATION = {"window": (3, SIZE, SIZE, "float32"), "label": (SIZE, SIZE, "uint8")}


@pytest.mark.parametrize(
    ("kind", "form"),
    [("classification", CLASSIFICATION), *((model, SEGMENTATION) for model in MODELS)],
)
def test_samples_are_functions_of_seed_epoch_and_index(folder, kind, form):
    def pictures(seed=15):
        if kind == "classification":
            return pictures_of(folder, seed)
        return segmentation_pictures(folder, kind, seed)

    first = pictures()[1, 2]
    assert {name: (*value.shape, value.dtype.name) for name, value in first.items()} == form
    one = pictures()
    one[0, 0], one[5, 3]  # what came before does not matter
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - chance from outside must not matter
    assert same(first, one[1, 2])
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    windows = [pictures(seed)[key]["window"].tobytes() for seed in (15, 16) for key in keys]
    assert len(set(windows)) == len(windows)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_draws_other_views_in_every_epoch(folder, workers):
    """They depend on torch's seed, as its order does."""

    def epochs(seed: int) -> list[list[bytes]]:
        torch.manual_seed(seed)
        loader = DataLoader(pictures_of(folder), batch_size=3, shuffle=True, num_workers=workers)
        found = []
        for _ in range(2):
            batch, rest = loader
            windows = torch.cat([batch["window"], rest["window"]])
            labels = torch.cat([batch["label"], rest["label"]])
            assert windows.shape == (6, 3, SIZE, SIZE)
            assert sorted(labels.tolist()) == sorted(folder.labels(folder.ids("train")).tolist())
            found.append([window.numpy().tobytes() for window in windows])
        return found

    first, second = epochs(1)
    assert not set(first) & set(second)
    assert len(set(first)) == 6
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]


def test_label_and_picture_belong_to_the_same_id(folder):
    ids = ["d", "a", "e"]
    pictures = ClassificationPictures(folder, ids, 48, 0, 48, 48)
    for index, label in enumerate([[1, 0, 1], [1, 0, 0], [0, 1, 0]]):
        sample = pictures[0, index]
        assert sample["label"].tolist() == label
        top, left, bottom, right = sample["box"]
        inner = sample["window"][:, top:bottom, left:right]
        picture = channels_first(folder.read(ids[index]))  # 48 wide, so not resized
        assert any(np.array_equal(inner, candidate) for candidate in (picture, picture[..., ::-1]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 5), st.floats(0, 1), SEEDS)
def test_pictures_of_rare_classes_are_repeated_by_the_root_of_their_rarity(n, k, share, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < rng.random(k)).astype(np.uint8)
    shown = [sum(row[c] for row in labels.tolist()) / n for c in range(k)]
    factors = [
        max([1.0] + [math.sqrt(share / shown[c]) for c in range(k) if row[c]])
        for row in labels.tolist()
    ]
    times = repeats(labels, share)
    assert times.min() >= 1
    sums = np.cumsum(times) - np.cumsum(factors)
    assert ((sums > -1 - 1e-9) & (sums < 1e-9)).all()  # no fraction is lost
    assert (repeats(labels, 0) == 1).all()


def test_what_is_repeated_keeps_its_label(folder):
    once = pictures_of(folder)
    often = ClassificationPictures(folder, folder.ids("train"), SIZE, 15, 30, 70, 1.0)
    assert len(often) > len(once)
    assert list(dict.fromkeys(often.ids)) == once.ids
    assert np.array_equal(often.labels, folder.labels(often.ids))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), SEEDS, st.integers(0, 30))
def test_schedule_shows_every_picture_at_most_once_an_epoch(pictures, batch, epochs, seed, start):
    batch = min(batch, pictures)
    schedule = Schedule(pictures, batch, epochs, seed)
    whole, steps = list(schedule), pictures // batch
    assert len(whole) == schedule.total == steps * epochs
    for epoch in range(epochs):
        shown = [i for step in whole[epoch * steps : (epoch + 1) * steps] for i in step]
        assert {e for e, _ in shown} == {epoch}
        indices = {i for _, i in shown}
        assert len(indices) == len(shown) == steps * batch
        assert indices <= set(range(pictures))
    start = min(start, len(whole))
    rest = Schedule(pictures, batch, None, seed, start, total=len(whole))
    assert list(rest) == list(rest) == whole[start:]  # can be gone through twice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "rows", lambda size: slice(0, None, 2))
        mine = Schedule(pictures, batch, epochs, seed, start)
    assert list(mine) == [step[::2] for step in whole[start:]]


def test_order_depends_on_seed_and_epoch():
    """So do the pictures that a partial batch leaves out."""
    one, other = ([i for step in Schedule(50, 5, 2, seed) for _, i in step] for seed in (15, 16))
    assert one[:50] != other[:50]
    assert one[:50] != one[50:]
    shown = [set() for _ in range(40)]
    for step in Schedule(10, 4, epochs=40, seed=0):
        for epoch, index in step:
            shown[epoch].add(index)
    assert set.intersection(*shown) == set()
    assert Schedule(10_582, 16, 5, seed=15).total == 3305  # as published
    assert Schedule(82_081, 16, 5, seed=15).total == 25_650
    assert list(Schedule(3, 4, 5, 0)) == []  # fewer pictures than a batch


@pytest.mark.parametrize("workers", [0, 2])
def test_scaled_pictures_have_the_sizes_and_pixels_of_the_rule(folder, workers):
    """They come one by one in the order of the list."""
    scales = (1.0, 0.5, 1.5)
    expected = {  # half to even: 20.5, 61.5; 21.5, 64.5
        "d": [(3, 43, 48), (3, 22, 24), (3, 64, 72)],
        "b": [(3, 41, 48), (3, 20, 24), (3, 62, 72)],
    }
    picture_of = partial(scaled_picture, folder, scales, math.inf)
    items = one_by_one(picture_of, list(expected), workers)
    for item, (image_id, shapes) in zip(items, expected.items(), strict=True):
        assert (item["id"], item["size"]) == (image_id, shapes[0][1:])
        assert item["present"].tolist() == [1, *folder.labels([image_id])[0]]
        assert [picture.shape for picture in item["pictures"]] == shapes
        image = folder.read(image_id)
        assert np.array_equal(plain_picture(folder, 1e6, image_id)["picture"], np.array(image))
        for scale, picture in zip(scales, item["pictures"], strict=True):
            assert np.array_equal(picture, channels_first(rescale(image, scale)))


def test_scales_and_shifts_are_drawn_as_the_recipes_say(folder, monkeypatch):
    drawn = {}
    for model in MODELS:
        pictures, scales, shifts = segmentation_pictures(folder, model), [], []

        def note(model, picture, label, rng, scale, *rest, scales=scales):
            scales.append(scale)
            return picture, label

        def shift(picture, by, shifts=shifts):
            shifts.append(by)

        monkeypatch.setattr(loaders, "random_window", note)
        monkeypatch.setattr(loaders, "shift_hsv", shift)
        for epoch in range(300):
            pictures[epoch, 0]
        drawn[model] = scales
        for channel in np.array(shifts).T:
            assert set(channel.tolist()) == set(range(-10, 11))
    listed, between = drawn.values()
    assert set(listed) == {0.5, 0.75, 1.0, 1.25, 1.5}
    assert min(map(listed.count, listed)) > 30
    assert 0.5 <= min(between) < 0.55
    assert 1.45 < max(between) < 1.5


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_gpu_computes_while_a_thread_takes_the_next_item(device):
    threads, second = [], threading.Event()

    def items():
        for number in range(3):
            threads.append(threading.current_thread())
            if number == 1:
                second.set()
            yield number
        raise InputError("a broken picture")

    with pretend_gpus():
        coming = ahead(items(), torch.device(device))
        assert next(coming) == 0
        on_gpu = device != "cpu"
        assert second.wait(10 * on_gpu) == on_gpu
        assert [next(coming), next(coming)] == [1, 2]
        with pytest.raises(InputError, match="broken"):
            next(coming)
    assert (threading.main_thread() in threads) != on_gpu
    assert len(set(threads)) == 1
