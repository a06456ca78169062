"""Evaluations: what they count, what their files say of themselves, and who may read them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import eval_cam
import eval_seg_labels
from eval_seg_labels import result_path
from tests.tiny import CLASSES, KEYS, result_of
from tool.errors import InputError
from tool.maps import read_maps
from tool.metrics import confusion, iou_of
from tool.pictures import read_mask, save_label
from tool.results import read_result


@pytest.fixture
def labelled(run, tiny, tmp_path) -> Path:
    """A session with maps, and labels that are the masks but for the lower half of ``a``."""
    for image_id in KEYS:
        label = read_mask(tiny / f"masks/{image_id}.png")
        if image_id == "a":
            label[20:] = 0
        save_label(tmp_path / f"run/pseudo_label/{image_id}.png", label)
    return tmp_path / "run"


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_maps_are_counted_as_a_plain_loop_does(run, labelled, tiny):
    eval_cam.main(run["eval_seg_labels"])
    rows = rows_of(labelled / "eval_cam.csv")
    assert list(rows) == list(KEYS)
    whole = np.zeros((4, 5), int)
    for image_id, row in rows.items():
        maps = read_maps(labelled / "npy", image_id)
        prediction = np.array(KEYS[image_id])[maps["IS_CAM"].argmax(0)]  # ids, and no places
        one = confusion(4, read_mask(tiny / f"masks/{image_id}.png"), prediction)
        whole += one
        for name, iou in zip(CLASSES, iou_of(one), strict=True):
            assert row[name] == ("" if np.isnan(iou) else f"{iou:.4f}")
        assert float(row["miou"]) == pytest.approx(np.nanmean(iou_of(one)), abs=1e-4)
    result = read_result(labelled / "eval_cam.json")
    counts = np.array([line.split() for line in result["confusion"]], int)
    assert np.array_equal(counts, whole)
    assert result["miou"] == pytest.approx(np.nanmean(iou_of(whole)))


def test_a_class_that_does_not_occur_is_no_zero_in_a_mean(run, labelled, tiny):
    """Picture b is green and right; a is half of its red: by hand."""
    eval_seg_labels.main(run["eval_seg_labels"])
    rows = rows_of(labelled / "eval_pseudo_label.csv")
    assert (rows["b"]["miou"], rows["b"]["red"], rows["b"]["green"]) == ("1.0000", "", "1.0000")
    truth = read_mask(tiny / "masks/a.png")
    kept, red, background = (truth[:20] == 1).sum(), (truth == 1).sum(), (truth == 0).sum()
    expected = (kept / red + background / (background + red - kept)) / 2
    assert float(rows["a"]["miou"]) == pytest.approx(expected, abs=1e-4)


def test_the_file_says_what_it_is(run, labelled):
    eval_seg_labels.main(run["eval_seg_labels"])
    result = read_result(labelled / "eval_pseudo_label.json")
    about = {"program": "eval_seg_labels", "dataset": "folder", "list": "train", "images": 6}
    assert about.items() <= result.items()
    before = result["digests"]
    save_label(labelled / "pseudo_label/a.png", np.zeros((40, 48), np.uint8))
    eval_seg_labels.main(run["eval_seg_labels"])
    after = read_result(labelled / "eval_pseudo_label.json")["digests"]
    assert before["masks"] == after["masks"]
    assert before["predictions"] != after["predictions"]


def test_a_label_with_an_id_beyond_the_classes_is_refused(run, labelled):
    save_label(labelled / "pseudo_label/c.png", np.full((42, 48), 4, np.uint8))
    with pytest.raises(InputError, match=r"c\.png.*4.*0 to 3"):
        eval_seg_labels.main(run["eval_seg_labels"])


def test_labels_that_change_while_they_are_judged_are_noticed(run, labelled, monkeypatch):
    judge = eval_seg_labels.label_of

    def meanwhile(folder, num_classes, image_id):
        found = judge(folder, num_classes, image_id)
        save_label(folder / "a.png", np.zeros_like(read_mask(folder / "a.png")))
        return found

    monkeypatch.setattr(eval_seg_labels, "label_of", meanwhile)
    with pytest.raises(InputError, match=r"pseudo_label.*changed"):
        eval_seg_labels.main(run["eval_seg_labels"])
    assert not (labelled / "eval_pseudo_label.json").exists()


def test_unsure_pixels_are_counted_as_wrong(run, labelled, tiny):
    for image_id in KEYS:
        truth = read_mask(tiny / f"masks/{image_id}.png")
        save_label(labelled / f"pseudo_label/{image_id}.png", np.full_like(truth, 255))
    eval_seg_labels.main(run["eval_seg_labels"])
    result = read_result(labelled / "eval_pseudo_label.json")
    assert result["miou"] == 0
    assert result["unsure_pixels"] > 1000


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("run/pseudo_label", "eval_pseudo_label.json"),
        ("run/../run/crf_label", "eval_crf_label.json"),
        ("other/pseudo_label", "eval_other_pseudo_label.json"),
    ],
)
def test_every_folder_has_a_result_of_its_own(folder, name, tmp_path):
    assert result_path(tmp_path / "run", tmp_path / folder) == tmp_path / "run" / name


COUNTS = [[8, 2, 0, 0, 0], [1, 4, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 3, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"unit": "percent"},
        {"confusion": ["1 2 3"]},
        {"cam": {"miou": 0.4}},
    ],
)
def test_a_result_is_taken_only_where_it_is_one(change, tmp_path):
    path = tmp_path / "eval_cam.json"
    path.write_text(json.dumps({**result_of(COUNTS), **change}))
    if not change:
        assert read_result(path)["miou"] == pytest.approx((8 / 11 + 4 / 7 + 3 / 4) / 3)
        return
    with pytest.raises(InputError, match=r"eval_cam\.json"):
        read_result(path)
