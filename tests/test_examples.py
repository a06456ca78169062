"""The examples, run as the documents say, in small."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cam2ir
import eval_cam
import eval_seg_labels
import make_cam
import make_seg_labels
import train_irn
import train_resnet50_SIPE
from data.demo import Demo
from data.folder import Folder
from examples import own_pictures
from examples.own_dataset import ClassFolders
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask, save_label

SMALL = ["--pretrained", Demo.pretrained]
TRAIN = [*SMALL, "--batch_size", "2", "--max_epochs", "1", "--lr", "0.02"]
TRAIN += ["--crop_size", "64", "--resize_min", "40", "--resize_max", "80", "--val_freq", "0"]
IRN = [*SMALL, "--irn_crop_size", "80", "--irn_batch_size", "2", "--irn_num_epoches", "1"]


@pytest.fixture
def demo(tiny) -> Path:
    """The tiny folder with a fourth class, and with the two lists that the demo has."""
    with open(tiny / "classes.txt", "a") as file:
        file.write("yellow\n")
    with open(tiny / "labels.csv", "a") as file:
        file.write("g.png,red yellow\nh.png,green blue\n")
    for name in ("g", "h"):
        shutil.copy(tiny / "images/d.png", tiny / "images" / f"{name}.png")
        shutil.copy(tiny / "masks/d.png", tiny / "masks" / f"{name}.png")
    save_label(tiny / "masks/h.png", np.full((43, 48), 3, np.uint8))
    (tiny / "splits").mkdir()
    (tiny / "splits/train.txt").write_text("a\nb\nc\nd\ng\n")
    (tiny / "splits/val.txt").write_text("h\ne\nf\n")
    return tiny


def test_own_pictures_and_every_step_on_them(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures, "Demo", lambda: Folder(demo))
    out = tmp_path / "pictures"
    own_pictures.main(["--out", str(out)])
    own_pictures.main(["--out", str(out)])
    folder = Folder(out)
    assert folder.class_names == ("red", "green", "blue")
    assert folder.ids("train") == list("abcdefh")
    assert folder.labels(["d", "h"]).tolist() == [[1, 0, 1], [0, 1, 1]]
    for name in ("images/d.png", "masks/d.png"):
        assert (out / name).read_bytes() == (demo / name).read_bytes()
    with open(out / "labels.csv", newline="") as file:
        assert next(csv.reader(file)) == ["image", "labels"]

    session = tmp_path / "exp_mine"
    common = ["--dataset", "folder", "--dataset_root", str(out), "--session_name", str(session)]
    common += ["--device", "cpu", "--num_workers", "0"]
    train_resnet50_SIPE.main([*common, *TRAIN])
    make_cam.main([*common, "--scales", "1.0", "1.5", "--visualize"])
    eval_cam.main(common)
    cam2ir.main(common)
    train_irn.main([*common, *IRN])
    make_seg_labels.main([*common, "--irn_crop_size", "80", "--exp_times", "2", "--visualize"])
    eval_seg_labels.main(common)
    for image_id in folder.ids("train"):
        label = read_mask(session / "pseudo_label" / f"{image_id}.png")
        assert label.shape == read_mask(folder.mask_path(image_id)).shape
        assert set(np.unique(label)) <= {0, *(1 + folder.labels([image_id])[0].nonzero()[0])}
        assert (session / "visual_pseudo_label" / f"{image_id}.png").is_file()
    for name in ("eval_cam", "eval_pseudo_label"):
        result = json.loads((session / f"{name}.json").read_text())
        assert result["images"] == 7
        assert set(result["iou"]) == {"background", "red", "green", "blue"}


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
    with Image.open(dataset.image_path("red_f")) as picture:
        assert (picture.height, picture.width) == (45, 48)
    assert dataset.mask_path("red_a").is_file()
    with pytest.raises(InputError, match="no list 'val'"):
        dataset.ids("val")
    with pytest.raises(InputError, match="1 of 1 pictures are missing"):
        dataset.check_pictures(["red_z"])


def test_own_dataset_without_pictures_or_with_one_id_twice(class_folders, tmp_path):
    shutil.copy(class_folders / "red/a.png", class_folders / "red/a.jpg")
    with pytest.raises(InputError, match=r"a\.png has the id of .*a\.jpg\. Rename it"):
        ClassFolders(class_folders)
    (tmp_path / "empty/red").mkdir(parents=True)
    with pytest.raises(InputError, match="no picture in the folders"):
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


def test_a_wrong_dataset_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        make_cam.parse_arguments(["--dataset", "vok"])
    assert end.value.code == 2
    assert "There is no dataset 'vok'" in capsys.readouterr().err
