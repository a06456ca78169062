"""Masks of 0 and 255 alone, of which every figure would be perfect, and masks that do not fit."""

import numpy as np
import pytest

import eval_cam
import eval_seg_labels
import make_seg_labels
import train_resnet50_SIPE
import train_seg
from tool.errors import InputError
from tool.evaluate import SPREAD, check_class_ids
from tool.maps import read_maps, write_maps
from tool.pictures import read_mask, save_label

NO_CLASS = r"holds a class, .*0 \(background\) and 255, which means not judged; .* 1 to 3\."


def spoil(folder, ids="abcdef"):
    """Write 255 for every class."""
    for image_id in ids:
        path = folder / f"{image_id}.png"
        save_label(path, np.where(read_mask(path) > 0, 255, 0))


def test_evaluations_stop(run, tiny):
    spoil(tiny / "masks")
    with pytest.raises(InputError, match=f"None of the 6 masks {NO_CLASS}"):
        eval_cam.main(run["eval_seg_labels"])
    make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    with pytest.raises(InputError, match=f"None of the 6 masks {NO_CLASS}"):
        eval_seg_labels.main(run["eval_seg_labels"])


def test_one_mask_with_a_class_is_enough(run, tiny):
    spoil(tiny / "masks", "abcde")
    eval_cam.main(run["eval_seg_labels"])


def test_train_seg_stops(run, tiny):
    spoil(tiny / "masks")
    command = [*run["cam2ir"], "--label_dir", str(tiny / "masks"), "--batch_size", "2"]
    with pytest.raises(InputError, match=f"6 label pictures {NO_CLASS}"):
        train_seg.main([*command, "--accumulate", "1", "--pretrained", "none"])


def test_training_that_validates_stops(flags, tiny):
    spoil(tiny / "masks")
    with pytest.raises(InputError, match=NO_CLASS):
        train_resnet50_SIPE.main([*flags["train"], "--val_freq", "1"])


def test_label_pictures_are_looked_at_until_one_has_a_class(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(2 * SPREAD + 1)]
    seen = []

    def read(path):
        seen.append(path)
        return np.array([[0, 255, 9]], np.uint8)

    with pytest.raises(InputError, match=f"None of the {len(files)} label pictures {NO_CLASS}"):
        check_class_ids(files, 4, read)
    assert sorted(seen) == sorted(files)
    assert seen[:3] == files[::SPREAD]
    seen.clear()
    check_class_ids(files, 10, read)
    assert seen == files[:1]  # the first that has a class is enough


@pytest.mark.parametrize("fault", [np.full((40, 48), 9), np.zeros((4, 4))])
def test_mask_that_does_not_fit_maps_with_plain_cam(run, tiny, tmp_path, fault):
    maps = read_maps(tmp_path / "run/npy", "a")
    write_maps(tmp_path / "run/npy/a.npz", {**maps, "CAM": maps["IS_CAM"][1:]})
    save_label(tiny / "masks/a.png", fault)
    with pytest.raises(InputError, match=r"a\.png does not fit"):
        eval_cam.main(run["eval_seg_labels"])
