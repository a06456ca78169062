"""The confusion matrix against hand-computed cases and a plain loop."""

import numpy as np
import pytest
from PIL import Image

from tool.errors import InputError
from tool.metrics import ConfusionMatrix, iou_of, iou_table, miou_of
from tool.pictures import save_label


def counted(truth, prediction, num_classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(np.array(truth), np.array(prediction))
    return matrix


def plain_counts(truth, prediction, c: int) -> np.ndarray:
    counts = np.zeros((c, c + 1), np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != 255:
            counts[t, p if 0 <= p < c else c] += 1
    return counts


def plain_iou(truth, prediction, c: int) -> list[float]:
    truth, prediction = truth.ravel().astype(int), prediction.ravel().astype(int)
    judged = truth != 255
    result = []
    for k in range(c):
        a, b = judged & (truth == k), judged & (prediction == k)
        union = (a | b).sum()
        result.append((a & b).sum() / union if union else float("nan"))
    return result


def test_by_hand():
    matrix = counted([[0, 0, 0], [1, 1, 2]], [[0, 0, 1], [1, 2, 2]], 3)
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 1 / 3, 1 / 2])
    assert matrix.miou() == pytest.approx(0.5)
    assert type(matrix.miou()) is float


def test_rows_are_the_truth():
    assert counted([[0]], [[1]], 2).counts.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_unsure_truth_is_ignored_whatever_was_predicted():
    matrix = counted([[255, 255, 255, 1]], [[0, 1, 255, 1]], 2)
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_prediction_outside_the_classes_is_a_missed_pixel():
    matrix = counted([[0, 1, 1, 1]], [[0, 1, 255, 2]], 2)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 1, 2]]
    np.testing.assert_allclose(matrix.iou(), [1, 1 / 3])


def test_negative_prediction_is_no_pixel_of_the_class_before():
    matrix = counted([[0, 1, 1]], [[-1, -1, 1]], 2)
    assert matrix.counts.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_class_that_never_occurs_is_left_out_and_one_that_is_only_predicted_counts():
    matrix = counted([[0, 0, 0, 0]], [[0, 0, 0, 2]], 4)
    iou = matrix.iou()
    assert iou[0] == 0.75
    assert iou[2] == 0
    assert np.isnan(iou[[1, 3]]).all()
    assert matrix.miou() == pytest.approx(0.375)


@pytest.mark.filterwarnings("error")
def test_nothing_counted_is_nan_without_a_warning():
    matrix = ConfusionMatrix(3)
    assert np.isnan(matrix.iou()).all()
    assert np.isnan(matrix.miou())
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    matrix.update(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8))
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize("c", [2, 21, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_random_pictures_against_a_plain_loop(c, dtype):
    rng = np.random.default_rng(c)
    matrix, truths, predictions = ConfusionMatrix(c), [], []
    for _ in range(3):
        truth = rng.integers(0, c, (11, 13)).astype(np.uint8)
        prediction = np.where(rng.random((11, 13)) < 0.5, truth, rng.integers(0, 256, (11, 13)))
        truth[rng.random((11, 13)) < 0.1] = 255
        matrix.update(truth, prediction.astype(dtype))
        truths.append(truth)
        predictions.append(prediction)
    truth, prediction = np.stack(truths), np.stack(predictions)
    np.testing.assert_array_equal(matrix.counts, plain_counts(truth, prediction, c))
    expected = plain_iou(truth, prediction, c)
    np.testing.assert_allclose(matrix.iou(), expected, rtol=1e-12)
    assert matrix.miou() == pytest.approx(np.nanmean(expected), rel=1e-12)


def test_arguments_are_left_alone():
    truth, prediction = np.array([[0, 255]], np.uint8), np.array([[300, -1]])
    ConfusionMatrix(2).update(truth, prediction)
    assert truth.tolist() == [[0, 255]]
    assert prediction.tolist() == [[300, -1]]


def test_merged_matrices_equal_one():
    rng = np.random.default_rng(1)
    whole, parts = ConfusionMatrix(4), [ConfusionMatrix(4) for _ in range(2)]
    for i in range(5):
        pair = rng.integers(0, 4, (2, 6, 5))
        whole.update(*pair)
        parts[i % 2].update(*pair)
    parts[0].add(parts[1])
    np.testing.assert_array_equal(parts[0].counts, whole.counts)
    assert parts[1].counts.sum() == 2 * 30


def test_counts_do_not_overflow():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**40
    matrix.update(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert matrix.counts.dtype == np.int64
    assert matrix.counts[0, 0] == 2**40 + 1


def test_stack_of_matrices_equals_one_by_one():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 9, (4, 3, 5, 6))
    counts[0, 0] = 0
    counts[1, 1, 2] = counts[1, 1, :, 2] = 0  # class 2 absent
    iou, miou = iou_of(counts), miou_of(counts)
    assert iou.shape == (4, 3, 5)
    assert miou.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            np.testing.assert_array_equal(iou[i, j], iou_of(counts[i, j]))
            np.testing.assert_array_equal(miou[i, j], miou_of(counts[i, j]))
    assert np.isnan(miou[0, 0])
    assert np.isnan(iou[1, 1]).tolist() == [False, False, True, False, False]
    assert miou[1, 1] == pytest.approx(np.nanmean(iou[1, 1]))


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"\(2, 3\).*\(3, 2\)"),
        (np.zeros((2, 3), int), np.zeros(3, int), r"\(2, 3\).*\(3,\)"),
        (np.full((1, 1), 3), np.zeros((1, 1), int), "class 3 of 3"),
        (np.full((1, 1), 254), np.zeros((1, 1), int), "class 254 of 3"),
    ],
)
def test_what_does_not_fit_changes_nothing(truth, prediction, message):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        matrix.update(truth, prediction)
    assert matrix.counts.sum() == 0


def test_ground_truth_from_a_file(tmp_path):
    path = tmp_path / "mask.png"
    save_label(path, np.array([[0, 1, 255]], np.uint8))
    matrix = ConfusionMatrix(2)
    matrix.update_from(path, np.array([[0, 0, 0]]))
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 0]]
    with pytest.raises(InputError, match=r"mask\.png does not fit: .*\(1, 3\).*\(3, 1\)"):
        matrix.update_from(path, np.zeros((3, 1), int))
    save_label(path, np.array([[7]], np.uint8))
    with pytest.raises(InputError, match=r"mask\.png does not fit: .*class 7 of 2.*--dataset"):
        matrix.update_from(path, np.zeros((1, 1), int))
    with pytest.raises(InputError, match=r"gone\.png"):
        matrix.update_from(tmp_path / "gone.png", np.zeros((1, 1), int))
    Image.new("RGB", (1, 1)).save(path)
    with pytest.raises(InputError, match=r"mask\.png is a RGB picture"):
        matrix.update_from(path, np.zeros((1, 1), int))
    assert matrix.counts.sum() == 2


def test_table_names_every_class_and_leaves_absent_ones_blank():
    names = ["background", "cat", "dog", "sofa"]
    table = iou_table(names, np.array([0.5, np.nan, 1.0, 0.1234]))
    lines = table.splitlines()
    assert [line.split() for line in lines] == [
        ["background", "50.00", "cat", "-", "dog", "100.00"],
        ["sofa", "12.34"],
    ]
    with pytest.raises(ValueError, match="zip"):
        iou_table(names, np.zeros(3))
