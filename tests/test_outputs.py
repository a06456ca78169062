"""Folders of outputs: whose files they are, of which classes, and what --restart may delete."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from processes import start

import cam2ir
import eval_cam
import eval_seg_labels
import infer_seg
import make_cam
import make_seg_labels
import train_irn
import train_resnet50_SIPE as train
import train_seg
from tool import checkpoint
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask, save_label


def session_of(flags: list[str]) -> Path:
    return Path(flags[flags.index("--session_name") + 1])


def reorder(root: Path) -> None:
    (root / "classes.txt").write_text("green\nred\nblue\n")


@pytest.fixture
def done(flags, run):
    """All command lines, after steps 1.1 to 2.3 with the dense CRF, from labels to labels."""
    shutil.rmtree(session_of(run["cam2ir"]) / "npy")
    train.main(flags["train"])
    make_cam.main(flags["make_cam"])
    cam2ir.main(run["cam2ir"])
    lines = {**flags, **run, "make_seg_labels": [*run["make_seg_labels"], "--refine", "crf"]}
    make_seg_labels.main(lines["make_seg_labels"])
    return lines


@pytest.fixture
def seg(flags, tiny) -> dict[str, list[str]]:
    """Command lines of step 3 on the masks."""
    train_flags = [*flags["make_cam"], "--label_dir", str(tiny / "masks"), "--pretrained", "none"]
    train_flags += ["--width", "1", "--blocks", "1", "1", "1", "1", "--crop_size", "33"]
    train_flags += ["--batch_size", "2", "--accumulate", "1", "--iterations", "2", "--lr", "1e-7"]
    return {"train": train_flags, "infer": [*flags["make_cam"], "--infer_list", "train"]}


# --------------------------------------------------------------------------- the order of classes


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (train, "train"),
        (make_cam, "make_cam"),
        (eval_cam, "make_cam"),
        (cam2ir, "cam2ir"),
        (train_irn, "train_irn"),
        (make_seg_labels, "make_seg_labels"),
        (eval_seg_labels, "eval_seg_labels"),
    ],
)
def test_other_classes_are_refused(program, name, done, tiny):
    """Also where the number of classes stays: only their order has changed."""
    reorder(tiny)
    with pytest.raises(InputError, match=r"the classes background, red, green, blue.*--dataset"):
        program.main(done[name])


def test_other_classes_are_refused_by_the_segmentation(seg, tiny):
    train_seg.main(seg["train"])
    infer_seg.main(seg["infer"])
    reorder(tiny)
    for program, name in ((train_seg, "train"), (infer_seg, "infer")):
        with pytest.raises(InputError, match=r"background, (red|green).*Check|check"):
            program.main(seg[name])


def test_labels_of_other_classes_are_not_learnt_from(done, seg, tiny):
    labels = session_of(done["train"]) / "pseudo_label"
    reorder(tiny)
    with pytest.raises(InputError, match=r"pseudo_label were made for the classes"):
        train_seg.main([*seg["train"], "--label_dir", str(labels)])


# --------------------------------------------------------------------------- whose files


def test_a_folder_of_nobody_is_refused_and_kept(run, tmp_path):
    mine = tmp_path / "mine"
    for image_id in "abcdef":
        save_label(mine / f"{image_id}.png", np.ones((4, 4), np.uint8))
    command = [*run["make_seg_labels"], "--refine", "crf", "--out_dir", str(mine)]
    for more in ([], ["--restart"]):
        with pytest.raises(InputError, match=r"mine holds 6 files.*no settings\.json.*empty"):
            make_seg_labels.main([*command, *more])
    assert all((read_mask(mine / f"{i}.png") == 1).all() for i in "abcdef")


def test_masks_of_the_dataset_are_never_deleted(run, tiny):
    before = {path.name: path.read_bytes() for path in (tiny / "masks").iterdir()}
    command = [*run["make_seg_labels"], "--refine", "crf", "--sem_seg_out_dir", str(tiny / "masks")]
    for _ in range(2):
        with pytest.raises(InputError, match="masks holds 6 files"):
            make_seg_labels.main([*command, "--restart"])
    assert before == {path.name: path.read_bytes() for path in (tiny / "masks").iterdir()}


@pytest.mark.parametrize("folder", ["npy", "ir_label"])
def test_no_program_writes_into_the_folder_of_another(folder, done):
    path = session_of(done["train"]) / folder
    before = {file.name for file in path.iterdir()}
    maker = {"npy": "make_cam", "ir_label": "cam2ir"}[folder]
    for more in ([], ["--restart"]):
        with pytest.raises(InputError, match=rf"{folder} holds what {maker}\.py made.*another one"):
            make_seg_labels.main([*done["make_seg_labels"], "--out_dir", str(path), *more])
    assert before == {file.name for file in path.iterdir()}


@pytest.mark.parametrize("note", [None, "null", "[]", "{}", "{", '"text"'])
def test_files_whose_note_is_lost_do_not_pass_for_new_ones(note, done):
    path = session_of(done["train"]) / "npy/settings.json"
    path.unlink() if note is None else path.write_text(note)
    with pytest.raises(InputError, match=r"settings\.json"):
        make_cam.main([*done["make_cam"], "--scales", "0.5"])
    assert len(list(path.parent.glob("*.npz"))) == 6


def test_restart_deletes_only_what_is_on_the_list(done, tmp_path):
    folder = session_of(done["train"]) / "npy"
    (tmp_path / "two.txt").write_text("a\nb\n")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    make_cam.main([*done["make_cam"], "--restart", "--infer_list", str(tmp_path / "two.txt")])
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    changed = {name for name, time in after.items() if time != before[name]}
    assert changed == {"a.npz", "b.npz"}


def test_restart_of_a_part_with_other_settings_is_refused(done, tmp_path):
    """Else one folder would hold files of two settings."""
    folder = session_of(done["train"]) / "npy"
    (tmp_path / "two.txt").write_text("a\nb\n")
    part = ["--restart", "--scales", "0.5", "--infer_list", str(tmp_path / "two.txt")]
    with pytest.raises(InputError, match=r"also holds 4 files.*such as c\.npz.*scales"):
        make_cam.main([*done["make_cam"], *part])
    assert len(list(folder.glob("*.npz"))) == 6


def test_restart_checks_first_and_deletes_then(done, tiny):
    """A label row that is missing, and a map that is missing."""
    session = session_of(done["train"])
    (session / "npy/c.npz").unlink()
    with pytest.raises(InputError, match=r"no maps .*c\.npz"):
        cam2ir.main([*done["cam2ir"], "--restart"])
    assert len(list((session / "ir_label").glob("*.png"))) == 6
    rows = (tiny / "labels.csv").read_text().splitlines()
    (tiny / "labels.csv").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(InputError, match=r"labels\.csv"):
        make_cam.main([*done["make_cam"], "--restart"])
    assert len(list((session / "npy").glob("*.npz"))) == 5


@pytest.mark.parametrize("program", ["train", "train_irn"])
def test_restart_of_a_training_checks_first(program, done):
    session = session_of(done["train"])
    name, board = {"train": ("final", "runs"), "train_irn": ("irn", "runs_irn")}[program]
    run_of = {"train": train, "train_irn": train_irn}[program]
    run_of.main(done[program])
    final = session / f"ckpt/{name}.pth"
    shutil.rmtree(session / board)
    (session / board).write_text("in the way")
    with pytest.raises((InputError, OSError)):
        run_of.main([*done[program], "--restart"])
    assert final.exists()


def test_a_window_without_pairs_is_refused_before_anything_is_deleted(done):
    train_irn.main(done["train_irn"])
    final = session_of(done["train"]) / "ckpt/irn.pth"
    with pytest.raises(InputError, match="Take a larger window"):
        train_irn.main([*done["train_irn"], "--irn_crop_size", "32", "--restart"])
    assert final.exists()


# --------------------------------------------------------------------------- corrected labels


def test_maps_of_corrected_labels_are_made_again(done, tiny, caplog):
    csv = tiny / "labels.csv"
    csv.write_text(csv.read_text().replace("a.png,red", "a.png,red blue"))
    session = session_of(done["train"])
    before = {path.name: path.stat().st_mtime_ns for path in (session / "npy").glob("*.npz")}
    make_cam.main(done["make_cam"])
    assert "1 files are outdated, such as a.npz" in caplog.text
    assert read_maps(session / "npy", "a")["keys"].tolist() == [0, 1, 3]
    assert all(
        (session / "npy" / n).stat().st_mtime_ns == t for n, t in before.items() if n[0] != "a"
    )
    for program, name in ((cam2ir, "cam2ir"), (make_seg_labels, "make_seg_labels")):
        with pytest.raises(InputError, match=r"were made with maps .*--restart"):
            program.main(done[name])
        program.main([*done[name], "--restart"])


def test_a_list_that_changed_between_kill_and_resume_is_refused(flags, tiny, monkeypatch):
    (tiny / "splits").mkdir()
    (tiny / "splits/train.txt").write_text("a\nb\nc\nd\n")
    real = train.Training.save_when_due

    def dies(training, step):
        real(training, step)
        if step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Training, "save_when_due", dies)
    with pytest.raises(KeyboardInterrupt):
        train.main([*flags["train"], "--save_freq", "1"])
    monkeypatch.undo()
    (tiny / "splits/train.txt").write_text("a\nb\nc\nd\ne\nf\n")
    with pytest.raises(InputError, match=r"--train_list 4 pictures, .*not 6 pictures"):
        train.main([*flags["train"], "--save_freq", "1"])


# --------------------------------------------------------------------------- moved work


def test_work_that_was_moved_continues(done, tiny, weights, tmp_path, monkeypatch):
    """The session renamed and given by another path, the data and the weights moved."""
    old = session_of(done["train"])
    new, data, moved = tmp_path / "deep/renamed", tmp_path / "data", tmp_path / "moved.pth"
    (tmp_path / "deep").mkdir()
    shutil.move(old, new)
    shutil.move(tiny, data)
    shutil.copy(weights, moved)
    shutil.copytree(new / "ckpt", tmp_path / "deep/killed/ckpt")
    (tmp_path / "deep/killed/ckpt/final.pth").unlink()
    (new / "npy/a.npz").unlink()
    monkeypatch.chdir(tmp_path)
    places = ["--session_name", "deep/renamed", "--dataset_root", "data"]
    killed = ["--session_name", "deep/killed", "--dataset_root", "data"]
    train.main([*done["train"], *places, "--pretrained", "moved.pth"])
    train.main([*done["train"], *killed, "--pretrained", "moved.pth"])
    make_cam.main([*done["make_cam"], *places])
    cam2ir.main([*done["cam2ir"], *places])
    make_seg_labels.main([*done["make_seg_labels"], *places])
    assert "is finished" in (new / "renamed.log").read_text()
    assert "continuing" in (tmp_path / "deep/killed/killed.log").read_text()


def test_moved_labels_continue_a_segmentation(seg, tiny, tmp_path):
    train_seg.main(seg["train"])
    session = session_of(seg["train"])
    (session / "ckpt/seg_deeplabv2_resnet101.pth").unlink()
    shutil.copytree(tiny / "masks", tmp_path / "elsewhere")
    train_seg.main([*seg["train"], "--label_dir", str(tmp_path / "elsewhere")])
    save_label(tmp_path / "elsewhere/a.png", np.zeros((40, 48), np.uint8))
    (session / "ckpt/seg_deeplabv2_resnet101.pth").unlink()
    with pytest.raises(InputError, match="--label_dir sha256"):
        train_seg.main([*seg["train"], "--label_dir", str(tmp_path / "elsewhere")])


# --------------------------------------------------------------------------- results


def test_no_result_overwrites_another(done, tmp_path):
    eval_cam.main(done["make_cam"])
    session = session_of(done["train"])
    maps = json.loads((session / "eval_cam.json").read_text())
    for place in ("one", "two"):
        shutil.copytree(session / "pseudo_label", tmp_path / place / "cam")
        shutil.copytree(session / "pseudo_label", tmp_path / place / "mine")
        for name in ("cam", "mine"):
            folder = str(tmp_path / place / name)
            eval_seg_labels.main([*done["eval_seg_labels"], "--label_dir", folder])
    assert json.loads((session / "eval_cam.json").read_text()) == maps
    names = {path.name for path in session.glob("eval_*.json")}
    assert names == {
        "eval_cam.json",
        "eval_one_cam.json",
        "eval_two_cam.json",
        "eval_one_mine.json",
        "eval_two_mine.json",
    }


# --------------------------------------------------------------------------- two at once


def test_two_trainings_of_one_session_do_not_mix(flags, tmp_path):
    last = session_of(flags["train"]) / "ckpt/last.pth"
    command = [*flags["train"], "--max_epoches", "2000", "--save_freq", "1"]
    process = start("train_resnet50_SIPE", command, tmp_path / "out.txt")
    try:
        while not last.exists() and process.is_alive():
            time.sleep(0.01)
        with pytest.raises(InputError, match=r"Another process is training .*final\.pth"):
            train.main(command)
    finally:
        process.kill()
        process.join()
    train.main([*command[:-4], "--max_epoches", "2", "--restart"])  # a killed one leaves no lock


def test_final_weights_as_safetensors_make_the_same_maps(flags, tmp_path):
    train.main([*flags["train"], "--safetensors"])
    session = session_of(flags["train"])
    make_cam.main(flags["make_cam"])
    other = [*flags["make_cam"], "--session_name", str(tmp_path / "other")]
    make_cam.main([*other, "--ckpt", str(session / "ckpt/final.safetensors")])
    for image_id in "abcdef":
        ours, theirs = (read_maps(s / "npy", image_id) for s in (session, tmp_path / "other"))
        assert np.array_equal(ours["IS_CAM"], theirs["IS_CAM"])


def test_an_empty_checkpoint_is_not_continued_from_step_0(flags):
    session = session_of(flags["train"])
    checkpoint.save(session / "ckpt/last.pth", {})
    with pytest.raises(InputError, match=r"last\.pth cannot be continued: net.*--restart"):
        train.main(flags["train"])
