"""--visualize draws what is missing for files that are there, and only that."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

import cam2ir
import infer_seg
import make_cam
import make_seg_labels
import train_resnet50_SIPE
from tool.errors import InputError
from tool.maps import read_maps, write_maps
from tool.memory import enough_memory
from tool.pictures import label_overlay, read_mask, read_rgb, save_label


def ages(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("program", "labels", "drawings", "flags"),
    [
        (cam2ir, "ir_label", "visual_ir_label", []),
        (make_seg_labels, "pseudo_label", "visual_pseudo_label", ["--refine", "crf"]),
    ],
)
def test_labels(run, tiny, tmp_path, caplog, program, labels, drawings, flags, workers):
    caplog.set_level(logging.INFO)
    session = tmp_path / "run"
    command = [*run["cam2ir"], *flags, "--num_workers", workers]
    program.main(command)
    assert not (session / drawings).exists()
    program.main([*command, "--visualize"])
    assert "6 drawings made" in caplog.text
    for image_id in "abcdef":
        label = read_mask(session / labels / f"{image_id}.png")
        picture = np.array(read_rgb(tiny / f"images/{image_id}.png"))
        drawn = np.array(Image.open(session / drawings / f"{image_id}.png"))
        np.testing.assert_array_equal(drawn[: len(label)], label_overlay(picture, label))
    before = ages(session / drawings)
    (session / drawings / "c.png").unlink()
    save_label(session / labels / "d.png", np.zeros_like(read_mask(session / labels / "d.png")))
    program.main([*command, "--visualize"])
    after = ages(session / drawings)
    assert {name for name in after if after[name] != before[name]} == {"c.png", "d.png"}
    assert "2 drawings made" in caplog.text
    caplog.clear()
    program.main([*command, "--visualize"])
    assert "drawings" not in caplog.text


def test_a_drawing_of_a_former_label_is_drawn_anew(run, tiny, tmp_path):
    cam2ir.main([*run["cam2ir"], "--visualize"])
    drawing = tmp_path / "run/visual_ir_label/a.png"
    Image.new("RGB", (48, 40)).save(drawing)
    os.utime(drawing, (1, 1))
    cam2ir.main([*run["cam2ir"], "--visualize", "--restart"])
    assert np.array(Image.open(drawing)).any()


def test_maps(flags, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    session = tmp_path / "run"
    train_resnet50_SIPE.main([*flags["train"], "--max_epoches", "1"])
    command = [*flags["make_cam"], "--scales", "1.0"]
    make_cam.main([*command, "--visualize"])
    folder = session / "visual"
    at_once = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(name for name in at_once if name.startswith("d_")) == [
        "d_background.png",
        "d_blue.png",
        "d_red.png",
    ]
    for path in folder.iterdir():
        path.unlink()
    make_cam.main([*command, "--visualize"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == at_once
    assert "6 drawings made" in caplog.text
    caplog.clear()
    (folder / "c_background.png").unlink()
    make_cam.main([*command, "--visualize"])
    assert "1 drawings made" in caplog.text
    assert (folder / "c_background.png").exists()


def test_maps_that_are_pickles_are_not_opened(flags, tmp_path, caplog):
    train_resnet50_SIPE.main([*flags["train"], "--max_epoches", "1"])
    command = [*flags["make_cam"], "--scales", "1.0", "--save_format", "npy"]
    make_cam.main(command)
    make_cam.main([*command, "--visualize"])
    assert "are not opened" in caplog.text
    assert not (tmp_path / "run/visual").exists()


def test_maps_of_half_the_size(tmp_path, tiny):
    from data.folder import Folder

    dataset = Folder(tiny)
    maps = {"keys": np.array([0, 1]), "IS_CAM": np.ones((2, 20, 24), np.float16)}
    write_maps(tmp_path / "npy/a.npz", {**maps, "size": np.array([40, 48])})
    make_cam.visualize_stored(tmp_path, dataset, "a")
    assert Image.open(tmp_path / "visual/a_red.png").size == (48, 40)
    assert read_maps(tmp_path / "npy", "a")["IS_CAM"].shape == (2, 40, 48)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_memory_that_ends_is_named(error):
    with (
        pytest.raises(InputError, match=r"for a picture\. Lower --max_pixels\."),
        enough_memory("a picture", "Lower --max_pixels."),
    ):
        raise error


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("a", "b"):
        raise RuntimeError("shapes differ")


def test_programs_name_the_picture_and_the_flag(run, monkeypatch):
    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(cam2ir, "confident_areas", exhaust)
    with pytest.raises(InputError, match=r"suffice for a\. Lower --max_pixels"):
        cam2ir.main(run["cam2ir"])
    assert infer_seg.LOWER_PIXELS == "Lower --max_pixels."
