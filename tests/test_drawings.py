"""--visualize draws what is missing for files that are there, and only that."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

import cam2ir
import make_cam
import make_seg_labels
import train_resnet50_SIPE
from tests.tiny import CLASSES
from tool.errors import InputError, naming
from tool.pictures import label_drawing, read_mask, read_rgb, save_label


def ages(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


@pytest.mark.parametrize(("program", "name"), [(cam2ir, "ir"), (make_seg_labels, "pseudo")])
def test_labels(run, tiny, tmp_path, caplog, program, name):
    """Drawings follow the content of labels, and no clock."""
    caplog.set_level(logging.INFO)
    labels, drawings = tmp_path / f"run/{name}_label", tmp_path / f"run/visual_{name}_label"
    flags = ["--refine", "crf"] if name == "pseudo" else ["--num_workers", "2"]
    command = [*run["cam2ir"], *flags]
    program.main(command)
    assert not drawings.exists()
    command.append("--visualize")
    program.main(command)
    assert "drawings: 100% 6/6" in caplog.text
    for image_id in "abcdef":
        label = read_mask(labels / f"{image_id}.png")
        picture = np.array(read_rgb(tiny / f"images/{image_id}.png"))
        drawn = np.array(Image.open(drawings / f"{image_id}.png"))
        np.testing.assert_array_equal(drawn, label_drawing(picture, label, CLASSES))
    before = ages(drawings)
    (drawings / "c.png").unlink()
    status = (labels / "d.png").stat()
    save_label(labels / "d.png", np.ones_like(read_mask(labels / "d.png")))
    os.utime(labels / "d.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(labels / "e.png")
    program.main(command)
    after = ages(drawings)
    assert {name for name in after if after[name] != before[name]} == {"c.png", "d.png"}
    assert "drawings: 100% 2/2" in caplog.text
    caplog.clear()
    program.main(command)
    assert "drawings:" not in caplog.text


def test_maps(flags, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    session = tmp_path / "run"
    train_resnet50_SIPE.main([*flags["train"], "--max_epoches", "1"])
    command = [*flags["make_cam"], "--scales", "1.0"]
    make_cam.main([*command, "--visualize"])
    folder = session / "visual"
    at_once = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert sorted(name for name in at_once if name.startswith("d_")) == [
        "d_background.png",
        "d_blue.png",
        "d_red.png",
    ]
    for path in folder.glob("*.png"):
        path.unlink()
    make_cam.main([*command, "--visualize"])
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == at_once
    assert "drawings: 100% 6/6" in caplog.text
    caplog.clear()
    (folder / "c_background.png").unlink()
    make_cam.main([*command, "--visualize"])
    assert "drawings: 100% 1/1" in caplog.text
    assert (folder / "c_background.png").exists()


def test_memory_that_ends_is_named_and_other_errors_stay():
    errors = {MemoryError(): InputError, RuntimeError("can't allocate memory: 9 bytes"): InputError}
    for error, expected in {**errors, RuntimeError("shapes differ"): RuntimeError}.items():
        with pytest.raises(expected), naming("a picture"):
            raise error
