"""The confusion matrix against hand-computed cases and a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tool.errors import InputError
from tool.metrics import ConfusionMatrix, iou_of, iou_table, miou_of
from tool.pictures import save_label

NAN = float("nan")
THREE = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]


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
    matrix = ConfusionMatrix(len(counts))
    given_ = np.array(truth, int), np.array(prediction, int)
    matrix.update(*given_)
    assert [one.tolist() for one in given_] == [truth, prediction]  # they are left alone
    assert matrix.counts.tolist() == counts
    np.testing.assert_allclose(matrix.iou(), iou)
    assert type(matrix.miou()) is float
    known = [one for one in iou if one == one]
    assert matrix.miou() == pytest.approx(np.mean(known) if known else NAN, nan_ok=True)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 2, 3, 6, 21, 255]),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.sampled_from([np.uint8, np.int64]),
    st.sampled_from([0.2, 1]),
    st.integers(0, 2**32 - 1),
)
def test_any_pictures_by_a_loop(c, sizes, dtype, unsure, seed):
    rng = np.random.default_rng(seed)
    matrix, parts = ConfusionMatrix(c), [ConfusionMatrix(c) for _ in range(2)]
    counts = np.zeros((c, c + 1), np.int64)
    for number, size in enumerate(sizes):
        truth = rng.integers(0, c, size).astype(np.uint8)
        prediction = np.where(rng.random(size) < 0.5, truth, rng.integers(-1, c + 2, size))
        truth[rng.random(size) < unsure] = 255
        matrix.update(truth, prediction.astype(dtype))
        parts[number % 2].update(truth, prediction.astype(dtype))
        pairs = zip(truth.ravel().tolist(), prediction.astype(dtype).ravel().tolist(), strict=True)
        for row, column in pairs:
            if row != 255:
                counts[row, column if 0 <= column < c else c] += 1
    parts[0].add(parts[1])  # what another process counted
    for found in (matrix.counts, parts[0].counts):
        np.testing.assert_array_equal(found, counts)
    for k, iou in enumerate(matrix.iou()):
        union = counts[k].sum() + counts[:, k].sum() - counts[k, k]
        assert np.isnan(iou) if union == 0 else iou == pytest.approx(counts[k, k] / union)
    known = matrix.iou()[~np.isnan(matrix.iou())]
    mean = known.mean() if len(known) else NAN
    assert matrix.miou() == pytest.approx(mean, nan_ok=True)


def test_stack_of_matrices_equals_one_by_one():
    counts = np.random.default_rng(2).integers(0, 9, (4, 3, 5, 6))
    counts[0, 0] = 0
    counts[1, 1, 2] = counts[1, 1, :, 2] = 0  # class 2 absent
    iou, miou = iou_of(counts), miou_of(counts)
    assert iou.shape == (4, 3, 5)
    for place in np.ndindex(4, 3):
        np.testing.assert_array_equal(iou[place], iou_of(counts[place]))
        np.testing.assert_array_equal(miou[place], miou_of(counts[place]))
    assert np.isnan(miou[0, 0])
    assert np.isnan(iou[1, 1]).tolist() == [False, False, True, False, False]
    assert miou[1, 1] == pytest.approx(np.nanmean(iou[1, 1]))


def test_ground_truth_from_a_file(tmp_path):
    path, matrix = tmp_path / "mask.png", ConfusionMatrix(2)
    save_label(path, np.array([[0, 1, 255]], np.uint8))
    matrix.update_from(path, np.array([[0, 0, 0]]))
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 0]]
    others = [Image.fromarray(np.array([[key]], np.uint8)) for key in (2, 254)]
    for size, mask in (((3, 1), None), ((3,), None), *(((1, 1), one) for one in others)):
        if mask:
            mask.save(path)
        with pytest.raises(InputError, match=r"mask\.png"):
            matrix.update_from(path, np.zeros(size, int))
    with pytest.raises(InputError, match=r"gone\.png"):
        matrix.update_from(tmp_path / "gone.png", np.zeros((1, 1), int))
    assert matrix.counts.sum() == 2


def test_table_names_every_class_and_leaves_absent_ones_blank():
    names = ["background", "cat", "dog", "sofa"]
    table = iou_table(names, np.array([0.5, np.nan, 1.0, 0.1234]))
    assert [line.split() for line in table.splitlines()] == [
        ["background", "50.00", "cat", "-", "dog", "100.00"],
        ["sofa", "12.34"],
    ]
    with pytest.raises(ValueError, match="zip"):
        iou_table(names, np.zeros(3))
