"""Your own pictures: every mistake that a person makes in such a folder has its sentence."""

import json
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
from data.folder import MOST_CLASSES, Folder
from tests.tiny import COLOURS, LABELS
from tool.errors import InputError
from tool.metrics import ConfusionMatrix
from tool.pictures import read_mask, save_label


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_the_folder_says(tiny):
    folder = Folder(tiny)
    assert folder.class_names == ("red", "green", "blue")
    assert folder.all_names == ("background", "red", "green", "blue")
    assert folder.num_classes == 4
    assert folder.ids("train") == list("abcdef")
    assert folder.image_path("b") == tiny / "images/b.png"
    assert folder.mask_path("b") == tiny / "masks/b.png"
    folder.check_pictures(folder.ids("train"))
    (tiny / "masks/a.png").unlink()  # masks are not needed
    labels = folder.labels(["d", "b", "a"])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_pictures_of_all_endings_count_and_other_files_do_not(tiny):
    image = Image.new("RGB", (4, 4))
    image.save(tiny / "images/g.JPG")
    image.save(tiny / "images/h.i.jpeg")
    (tiny / "images/notes.txt").write_text("not a picture")
    assert Folder(tiny).ids("train") == [*"abcdefg", "h.i"]
    rewrite(tiny / "labels.csv", "f.png,red\n", "f.png,red\ng.JPG,blue\nh.i.jpeg,red\n")
    assert Folder(tiny).labels(["h.i", "g"]).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_splits_are_optional_and_replace_the_default(tiny):
    folder = Folder(tiny)
    with pytest.raises(InputError, match=r"There is no list val: .*splits"):
        folder.ids("val")
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text("c\na.png\nimages/d.png masks/other.png\n")
    assert folder.ids("val") == ["c", "a", "d"]
    with pytest.raises(InputError, match="no list train"):  # else val would be trained on
        folder.ids("train")
    (tiny / "splits/train.txt").write_text("b\n")
    assert folder.ids("train") == ["b"]


def test_largest_class_is_not_the_unsure_label(tiny):
    assert MOST_CLASSES < 255
    (tiny / "classes.txt").write_text("".join(f"c{i}\n" for i in range(MOST_CLASSES)))
    assert len(Folder(tiny).class_names) == MOST_CLASSES


def test_two_pictures_with_one_id(tiny):
    Image.new("RGB", (4, 4)).save(tiny / "images/a.jpg")
    with pytest.raises(InputError, match=r"a\.png and a\.jpg have the same id"):
        Folder(tiny).ids("train")


@pytest.mark.parametrize("name", ["classes.txt", "labels.csv"])
def test_missing_file_is_named_with_what_belongs_in_it(tiny, name):
    (tiny / name).unlink()
    with pytest.raises(InputError, match=rf"There is no .*{name}.* a (line|row)"):
        Folder(tiny).labels(["a"])


def test_folder_without_pictures(tiny):
    for path in (tiny / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"no pictures in .*images"):
        Folder(tiny).ids("train")
    with pytest.raises(InputError, match=r"no folder .*nowhere for --dataset folder"):
        Folder(tiny / "nowhere")


@pytest.fixture
def steps(flags, weights, tmp_path):
    """Programs of steps 1.1 to 2.4 with their command lines; lists are files of published form."""
    path = tmp_path / "published.txt"
    lines = (f"/JPEGImages/{i}.png /SegmentationClassAug/{i}.png" for i in LABELS)
    path.write_text("\n".join(lines) + "\n")
    train, infer, judge = (["--" + name, str(path)] for name in TAKES_LIST)
    common = flags["make_cam"]
    irn = ["--irn_crop_size", "80", "--irn_batch_size", "3", "--irn_num_epoches", "1"]
    irn += ["--pretrained", str(weights)]
    validated = ["--val_freq", "2", "--val_list", str(path)]
    return {
        train_resnet50_SIPE: [*flags["train"], *train, *validated],
        make_cam: [*common, *infer, "--scales", "1.0"],
        eval_cam: [*common, *judge],
        cam2ir: [*common, *infer],
        train_irn: [*common, *train, *infer, *irn],
        make_seg_labels: [*common, *infer, "--irn_crop_size", "80"],
        eval_seg_labels: [*common, *judge],
    }


TAKES_LIST = ("train_list", "infer_list", "eval_list")


def test_every_step_with_254_classes(tiny, steps, tmp_path):
    more = MOST_CLASSES - 3
    names = [*(f"other{n}" for n in range(more)), *COLOURS]
    (tiny / "classes.txt").write_text("\n".join(names) + "\n")
    for image_id in LABELS:
        path = tiny / f"masks/{image_id}.png"
        mask = read_mask(path)
        save_label(path, np.where(mask > 0, mask + more, 0))
    session = tmp_path / "run"
    for program, arguments in steps.items():
        program.main(arguments)
    crf = ["--refine", "crf", "--sem_seg_out_dir", str(session / "crf_label")]
    make_seg_labels.main([*steps[make_seg_labels], *crf])
    eval_seg_labels.main([*steps[eval_seg_labels], "--label_dir", str(session / "crf_label")])

    matrices = {name: ConfusionMatrix(len(names) + 1) for name in ("pseudo_label", "crf_label")}
    for image_id, labels in LABELS.items():
        keys = {0, *(names.index(name) + 1 for name in labels.split())}
        sure = read_mask(session / f"ir_label/{image_id}.png")
        assert set(np.unique(sure)) <= {*keys, 255}
        for name, matrix in matrices.items():
            label = read_mask(session / name / f"{image_id}.png")
            assert set(np.unique(label)) <= keys
            matrix.update(read_mask(tiny / f"masks/{image_id}.png"), label)
    for name, matrix in matrices.items():
        result = json.loads((session / f"eval_{name}.json").read_text())
        assert result["miou"] == pytest.approx(matrix.miou())
        assert list(result["iou"]) == ["background", *names]
        assert result["images"] == 6
    assert json.loads((session / "eval_cam.json").read_text())["images"] == 6
