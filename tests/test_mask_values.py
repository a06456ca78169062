"""Masks of 0 and 255 alone, of which every figure would be perfect, and masks that do not fit."""

from shutil import copytree
from unittest.mock import Mock

import numpy as np
import pytest

import eval_cam
import eval_seg_labels
import train_resnet50_SIPE
import train_seg
from data.evaluate import check_class_ids
from tests.tiny import store_maps
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask, save_label

NO_CLASS = r"holds a class, .*0 \(background\) and 255, which means not judged; .* 1 to 3\."


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (eval_cam, []),
        (eval_seg_labels, ["--label_dir", "labels"]),
        (train_seg, ["--label_dir", "masks", "--batch_size", "2", "--pretrained", "none"]),
        (train_resnet50_SIPE, ["--val_freq", "1", "--batch_size", "2", "--pretrained", "weights"]),
    ],
)
def test_programs_stop(run, tiny, weights, program, flags):
    copytree(tiny / "masks", tiny / "labels")
    for path in (tiny / "masks").iterdir():
        save_label(path, np.where(read_mask(path) > 0, 255, 0))
    places = {"labels": tiny / "labels", "masks": tiny / "masks", "weights": weights}
    with pytest.raises(InputError, match=NO_CLASS):
        program.main([*run["cam2ir"], *(str(places.get(flag, flag)) for flag in flags)])


def test_label_pictures_are_looked_at_until_one_has_a_class(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    read = Mock(return_value=np.array([[0, 255, 9]], np.uint8))
    with pytest.raises(InputError, match=NO_CLASS):
        check_class_ids(files, 4, read)
    assert [call.args[0] for call in read.call_args_list] == files
    read.reset_mock()
    check_class_ids(files, 10, read)
    read.assert_called_once_with(files[0])  # the first that has a class is enough


@pytest.mark.parametrize("fault", [np.full((40, 48), 9), np.zeros((4, 4))])
def test_mask_that_does_not_fit_maps_with_plain_cam(run, tiny, tmp_path, fault):
    maps = read_maps(tmp_path / "run/npy", "a")
    is_cam = maps["IS_CAM"]
    store_maps(tmp_path / "run/npy/a.npz", maps["keys"], is_cam, is_cam[1:])
    save_label(tiny / "masks/a.png", fault)
    with pytest.raises(InputError, match=r"a\.png does not fit"):
        eval_cam.main(run["eval_seg_labels"])
