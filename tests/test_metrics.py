"""The confusion matrix against hand-computed cases and a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool.errors import InputError
from tool.metrics import confusion, iou_of, iou_table, miou_of
from tool.pictures import read_mask, save_label

NAN = float("nan")


@pytest.mark.parametrize(
    ("truth", "prediction", "counts", "iou"),
    [
        (
            [0, 0, 0, 1, 1, 2],
            [0, 0, 1, 1, 2, 2],
            [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]],
            [2 / 3, 1 / 3, 1 / 2],
        ),
        ([255, 255, 255, 1], [0, 1, 255, 1], [[0, 0, 0], [0, 1, 0]], [NAN, 1]),
        ([0, 1, 1, 1], [-1, 1, 255, 2], [[0, 0, 1], [0, 1, 2]], [0, 1 / 3]),  # missed pixels
        ([], [], [[0, 0, 0], [0, 0, 0]], [NAN, NAN]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_by_hand(truth, prediction, counts, iou):
    both = np.array(truth, int), np.array(prediction, int)
    found = confusion(len(counts), *both)
    assert [one.tolist() for one in both] == [truth, prediction]  # they are left alone
    assert found.tolist() == counts
    np.testing.assert_allclose(iou_of(found), iou)
    assert isinstance(miou_of(found), float)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 2, 3, 6, 21, 255]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([np.uint8, np.int64]),
    st.sampled_from([0.2, 1]),
    st.integers(0, 2**32 - 1),
)
def test_any_pictures_by_a_loop(c, h, w, dtype, unsure, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, c, (3, h, w)).astype(np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(-1, c + 2, truth.shape))
    guess = guess.astype(dtype)
    truth[rng.random(truth.shape) < unsure] = 255
    found = confusion(c, truth[0], guess[0]) + confusion(c, truth[1:], guess[1:])
    counts = np.zeros((c, c + 1), np.int64)
    for row, column in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
        if row != 255:
            counts[row, column if 0 <= column < c else c] += 1
    np.testing.assert_array_equal(found, counts)
    hits = counts.diagonal()
    union = counts.sum(1) + counts[:, :c].sum(0) - hits
    iou = np.where(union, hits / np.maximum(union, 1), NAN)
    np.testing.assert_allclose(iou_of(found), iou)
    mean = np.nanmean(iou) if union.any() else NAN
    assert miou_of(found) == pytest.approx(mean, nan_ok=True)


def test_stack_of_matrices_equals_one_by_one():
    counts = np.random.default_rng(2).integers(0, 9, (4, 3, 5, 6))
    counts[0, 0] = 0
    counts[1, 1, 2] = counts[1, 1, :, 2] = 0  # class 2 absent
    iou, miou = iou_of(counts), miou_of(counts)
    for place in np.ndindex(4, 3):
        np.testing.assert_array_equal(iou[place], iou_of(counts[place]))
        np.testing.assert_array_equal(miou[place], miou_of(counts[place]))
    assert np.isnan(iou[1, 1]).tolist() == [False, False, True, False, False]


def test_ground_truth_from_a_file(tmp_path):
    path = tmp_path / "mask.png"
    save_label(path, np.array([[0, 1, 255]], np.uint8))
    found = confusion(2, read_mask(path), np.array([[0, 0, 0]]))
    assert found.tolist() == [[1, 0, 0], [1, 0, 0]]
    save_label(tmp_path / "beyond.png", np.array([[2]]))
    for name, size in (("mask", (3, 1)), ("mask", (3,)), ("beyond", (1, 1))):
        path = tmp_path / f"{name}.png"
        with pytest.raises(InputError, match=rf"{name}\.png"):
            confusion(2, read_mask(path), np.zeros(size, int), path)


def test_table_names_every_class_and_leaves_absent_ones_blank():
    names = ["background", "cat", "dog", "sofa"]
    table = iou_table(names, np.array([0.5, np.nan, 1.0, 0.1234]))
    assert [line.split() for line in table.splitlines()] == [
        ["background", "50.00", "cat", "-", "dog", "100.00"],
        ["sofa", "12.34"],
    ]
    with pytest.raises(ValueError, match="zip"):
        iou_table(names, np.zeros(3))
