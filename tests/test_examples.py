"""The examples, run as the documents say, in small."""

import json
import shutil
from pathlib import Path

import pytest

import make_cam
import train_resnet50_SIPE
from data.demo import Demo
from data.folder import Folder
from examples import own_pictures
from examples.own_dataset import ClassFolders
from tool.errors import InputError
from tool.maps import read_maps

SMALL = ["--pretrained", Demo.pretrained]
TRAIN = [*SMALL, "--batch_size", "2", "--max_epochs", "1", "--lr", "0.02"]
TRAIN += ["--crop_size", "64", "--resize_min", "40", "--resize_max", "80", "--val_freq", "0"]


def test_own_pictures(tiny, tmp_path, monkeypatch):
    """Twice, of pictures with masks and of a class that no picture has."""
    with open(tiny / "classes.txt", "a") as file:
        file.write("yellow\n")
    with open(tiny / "labels.csv", "a") as file:
        file.write("g.png,red yellow\n")
    for folder in ("images", "masks"):
        shutil.copy(tiny / folder / "d.png", tiny / folder / "g.png")
    (tiny / "splits").mkdir()
    (tiny / "splits/train.txt").write_text("a\nb\nc\nd\ng\n")
    (tiny / "splits/val.txt").write_text("e\nf\n")
    monkeypatch.setattr(own_pictures, "Demo", lambda: Folder(tiny))
    out = tmp_path / "pictures"
    for _ in range(2):
        own_pictures.main(["--out", str(out)])
    folder = Folder(out)
    assert folder.class_names == ("red", "green", "blue")
    assert folder.ids("train") == list("abcdef")
    assert folder.labels(["d", "f"]).tolist() == [[1, 0, 1], [1, 0, 0]]
    for name in ("images/d.png", "masks/d.png"):
        assert (out / name).read_bytes() == (tiny / name).read_bytes()


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


def test_own_dataset_says_what_is_its_own(class_folders, tmp_path):
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
    with pytest.raises(InputError, match="1 of 1 pictures"):
        dataset.check_pictures(["red_z"])
    shutil.copy(class_folders / "red/a.png", class_folders / "red/a.jpg")
    with pytest.raises(InputError, match=r"a\.png .*a\.jpg"):
        ClassFolders(class_folders)
    (tmp_path / "empty/red").mkdir(parents=True)
    with pytest.raises(InputError, match="empty"):
        ClassFolders(tmp_path / "empty")


def test_own_dataset_by_its_flag(class_folders, tmp_path):
    session = tmp_path / "exp_mine"
    common = ["--dataset", "examples.own_dataset:ClassFolders", "--session_name", str(session)]
    common += ["--dataset_root", str(class_folders), "--device", "cpu", "--num_workers", "0"]
    train_resnet50_SIPE.main([*common, *TRAIN])
    make_cam.main([*common, "--scales", "1.0"])
    assert read_maps(session / "npy", "red_a")["keys"].tolist() == [0, 2]
    assert json.loads((session / "args.json").read_text())["train_resnet50_SIPE"]["dataset"] == (
        "examples.own_dataset:ClassFolders"
    )
