"""The examples, run as the documents say, in small."""

import shutil
from pathlib import Path

import pytest

import make_cam
import train_resnet50_SIPE
from data.demo import Demo
from examples.own_dataset import ClassFolders
from tool.errors import InputError
from tool.maps import read_maps

TRAIN = ["--pretrained", Demo.pretrained, "--batch_size", "2", "--max_epochs", "1", "--lr", "0.02"]
TRAIN += ["--crop_size", "64", "--resize_min", "40", "--resize_max", "80", "--val_freq", "0"]


@pytest.fixture
def class_folders(tiny, tmp_path) -> Path:
    """Pictures of two classes in the folders of their classes; one has a mask."""
    root = tmp_path / "my_pictures"
    for class_name, names in {"red": "af", "green": "be"}.items():
        (root / class_name).mkdir(parents=True)
        for name in names:
            shutil.copy(tiny / "images" / f"{name}.png", root / class_name)
    (root / "red/notes.txt").write_text("no picture")
    (root / "masks").mkdir()
    shutil.copy(tiny / "masks/a.png", root / "masks/red_a.png")
    return root


def test_own_dataset_says_what_is_its_own(class_folders):
    dataset = ClassFolders(class_folders)
    assert dataset.class_names == ("green", "red")
    ids = dataset.ids("train")
    assert ids == ["green_b", "green_e", "red_a", "red_f"]
    assert dataset.labels(ids).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    dataset.check_pictures(ids)
    assert dataset.read("red_f").size == (48, 45)
    assert dataset.mask_path("red_a").is_file()
    with pytest.raises(InputError, match="'val'"):
        dataset.ids("val")
    shutil.copy(class_folders / "red/a.png", class_folders / "red/a.jpg")
    with pytest.raises(InputError, match=r"a\.png .*a\.jpg"):
        ClassFolders(class_folders)


def test_own_dataset_by_its_flag(class_folders, tmp_path):
    session = tmp_path / "exp_mine"
    common = ["--dataset", "examples.own_dataset:ClassFolders", "--session_name", str(session)]
    common += ["--dataset_root", str(class_folders), "--device", "cpu", "--num_workers", "0"]
    train_resnet50_SIPE.main([*common, *TRAIN])
    make_cam.main([*common, "--scales", "1.0"])
    assert read_maps(session / "npy", "red_a")["keys"].tolist() == [0, 2]
