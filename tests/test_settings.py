"""run_folder.sh and its settings: what suits a folder, and the chain from pictures to labels."""

import logging
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import play

from data.folder import Folder, settings
from tests.tiny import LABELS
from tool.errors import InputError
from tool.pictures import read_mask

CPU = torch.device("cpu")
V2, V1 = "deeplabv2_resnet101", "deeplabv1_resnet38"


def words_of(flags: dict[str, str], step: str) -> dict[str, str]:
    """Return the values of a step's flags that have one."""
    words = shlex.split(flags[f"{step}_FLAGS"])
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {name: value for name, value in pairs if name.startswith("--")}


# Pictures, long side, device -> batch, epochs, window, shortest and longest side of step 1.1,
# pixels of the maps and of the labels.
SUITS = {
    (40, 250, "cpu"): (8, 40, 176, 156, 250, 62_500, 250_000),
    (10, 4000, "cpu"): (8, 200, 192, 160, 256, 65_536, 262_144),
    (3, 4000, "cuda"): (3, 534, 384, 320, 512, 262_144, 1_048_576),
    (1000, 640, "cuda"): (8, 5, 384, 320, 512, 262_144, 1_048_576),
    (15, 250, "cpu"): (8, 200, 176, 156, 250, 62_500, 250_000),
    (6, 45, "cpu"): (6, 267, 32, 28, 45, 2025, 8100),
    (1, 8, "cpu"): (1, 1600, 32, 20, 32, 1024, 4096),
}


@pytest.mark.parametrize("folder", SUITS)
def test_settings_suit_the_number_and_the_size_of_pictures(folder):
    flags = settings.flags_of(*folder, "off", V2)
    train, large_side = words_of(flags, "TRAIN"), SUITS[folder][4]
    names = ("batch_size", "max_epochs", "crop_size", "resize_min", "resize_max")
    found = [int(train[f"--{name}"]) for name in names]
    found += [int(words_of(flags, step)["--max_pixels"]) for step in ("CAM", "LABEL")]
    assert tuple(found) == SUITS[folder]
    assert (train["--background_weight"], train["--gsc_weight"]) == ("1", "1")
    assert train["--lr"] == ("0.05" if folder[0] >= 100 else "0.02")
    many = words_of(settings.flags_of(*folder, "off", V2, 15), "TRAIN")
    assert many == {**train, "--gsc_weight": "5"}
    maps = words_of(flags, "CAM")
    assert (maps["--background_weight"], maps["--competitors"]) == ("auto", "present")
    seg = words_of(flags, "SEG")
    batch, epochs = found[:2]
    assert int(seg["--batch_size"]) == batch
    assert int(seg["--iterations"]) == folder[0] // batch * epochs >= settings.WINDOWS / batch
    assert {name for name, words in flags.items() if "--amp off" in words} == {
        f"{name}_FLAGS" for name in ("TRAIN", "CAM", "IRN", "LABEL", "SEG", "INFER")
    }
    seen = float(words_of(flags, "INFER")["--scales"]) * min(max(folder[1], 32), 2 * large_side)
    assert seen == pytest.approx(large_side, rel=0.01)
    other = settings.flags_of(*folder, "off", V1)
    assert "--recipe" not in other["SEG_FLAGS"]
    assert "--scales" not in other["INFER_FLAGS"]


def test_minutes_grow_with_windows_and_pictures():
    """Hand-computed: half a second a window of step 1.1."""
    minutes = settings.minutes_of(40, 10, 0.5, "crf", V2)
    assert minutes == {"1.1": 1600 / 120, "1.2": 2, "2.3": 1, "3.1": 1600 / 120, "3.2": 0.5}
    of_many = settings.minutes_of(1000, 10, 0.5, "crf", V2)
    assert of_many["1.1"] == of_many["3.1"] == 5000 / 120
    with_irn = settings.minutes_of(40, 10, 0.5, "irn", "none")
    assert with_irn == {"1.1": 1600 / 120, "1.2": 2, "2.3": 1, "2.1 and 2.2": 1 + 3200 / 120}


def relabel(root: Path, labels: dict[str, str]) -> None:
    """Write other labels of the tiny folder."""
    rows = [f"{image_id}.png,{shown}" for image_id, shown in labels.items()]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")


@pytest.mark.parametrize(("label", "shown"), [("red", "red"), ("", "no class")])
def test_a_folder_of_which_nothing_is_learnt_is_refused(label, shown, tiny):
    relabel(tiny, dict.fromkeys(LABELS, label))
    with pytest.raises(InputError, match=f"every picture shows {shown}"):
        settings.main(["--dataset_root", str(tiny), "--device", "cpu"])


def test_a_measured_window_takes_time():
    assert settings.seconds_a_window(32, CPU, "off") > 0


@pytest.fixture
def chain(tiny, weights, tmp_path, command_lines, monkeypatch, capsys):
    """Do what run_folder.sh does for the tiny folder; return the names of the programs."""
    monkeypatch.setattr(settings, "seconds_a_window", lambda *_: 0.01)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of programs print

    def run(**variables: str) -> list[str]:
        settings.main(["--dataset_root", str(tiny), "--device", "cpu"])
        chosen = capsys.readouterr().out
        small = {
            "TRAIN_FLAGS": f"--pretrained {weights} --max_epochs 1",
            "SEG_FLAGS": "--iterations 1",
            "NUM_WORKERS": "0",
            "DEVICE": "cpu",
        }
        end, lines = command_lines(
            "run_folder.sh", SETTINGS=chosen, FOLDER=str(tiny), **small, **variables
        )
        assert end.returncode == 0, end.stderr
        assert all(line in end.stdout for line in re.findall(r"--recipe short.*", chosen))
        play([line for line in lines if "data.folder" not in line[1]])
        return [word.removesuffix(".py") for line in lines for word in line[:2] if word != "-m"]

    return run


STEPS = ["train_resnet50_SIPE", "make_cam", "make_seg_labels", "train_seg", "infer_seg"]


def test_from_a_folder_to_labels_in_one_command(chain, tiny, tmp_path):
    names = chain(EXPORT="cvat labelme areas", DOCTOR="0")
    assert [name for name in names if name in STEPS] == STEPS
    assert sum(name.startswith("eval") for name in names) == 3
    run = tmp_path / "run"
    for folder in ("pseudo_label", f"seg_{V2}"):
        for image_id in Folder(tiny).ids("train"):
            assert read_mask(run / folder / f"{image_id}.png").shape[1] == 48
    assert len(list((run / "labels_labelme").glob("*.json"))) == len(LABELS)
    assert (run / "labels_cvat.zip").is_file()
    assert (run / "labels_areas.csv").is_file()
    assert (run / "report.html").is_file()


def test_a_folder_without_masks_is_judged_nowhere(chain, tiny, tmp_path):
    for path in (tiny / "masks").iterdir():
        path.unlink()
    relabel(tiny, {"a": "red", "b": "", "c": "", "d": "red", "e": "", "f": "red"})
    (tiny / "classes.txt").write_text("red\n")
    names = chain(DOCTOR="0", SEG_MODEL="none")
    assert [name for name in names if name in STEPS] == STEPS[:3]
    assert not any(name.startswith(("eval", "export")) for name in names)
    assert (tmp_path / "run/report.html").is_file()


CHOSEN = """SEG_FLAGS=--batch_size 3 --lr 1
CAM_FLAGS=--scales 1.0
JUDGED=train
TESTED=val
SEG_JUDGED=
"""


def test_the_users_flags_stand_behind_the_settings(command_lines, tmp_path):
    here = {"SETTINGS": CHOSEN, "SEG_FLAGS": "--lr 2", "FOLDER_FLAGS": "--negative_class 'no one'"}
    end, lines = command_lines("run_folder.sh", FOLDER="p q", EXPORT="coco", **here)
    assert end.returncode == 0, end.stderr
    called = {next((w for w in line if w.endswith(".py")), line[1]): line for line in lines}
    assert called["train_seg.py"][-4:] == ["3", "--lr", "1", "--lr", "2"][1:]
    assert called["make_cam.py"][-2:] == ["--scales", "1.0"]
    assert "eval_seg_labels.py" in called  # of the list train; that of val has no masks
    assert sum("eval_seg_labels.py" in line for line in lines) == 1
    reads = [line for line in lines if line[1] not in ("tool.report",)]
    assert all("no one" in line for line in reads)
    assert called["export_labels.py"][-1] == str(tmp_path / "run/labels_coco.json")
    (tmp_path / "run/labels_coco.json").write_text("corrected")
    _, again = command_lines("run_folder.sh", FOLDER="p q", EXPORT="coco", **here)
    assert [line for line in lines if "export_labels.py" not in line] == again


@pytest.mark.parametrize(("name", "value"), [("EXPORT", "cvat x"), ("REFINE", "IRN")])
def test_a_wrong_setting_is_found_before_anything_runs(name, value, command_lines):
    end, lines = command_lines("run_folder.sh", **{name: value})
    assert (end.returncode, lines) == (2, [])
    assert name in end.stderr


def test_a_folder_that_is_refused_stops_the_script(command_lines):
    for program in ("data.folder", "data.folder.settings"):
        end, lines = command_lines("run_folder.sh", FAIL=program)
        assert end.returncode in (1, 2)
        assert program in lines[-1]  # nothing was called after it
