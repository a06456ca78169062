"""Trainers that are killed again and again end with the weights of an uninterrupted run."""

import random
import time
from pathlib import Path

import pytest
import torch
from processes import start

import cam2ir
import make_cam
import train_resnet50_SIPE
from net.recipes import MODELS
from tool import checkpoint

KILLS = 10
PATIENCE = 60.0  # seconds that a process may take to its next checkpoint


def session_of(flags: list[str]) -> Path:
    return Path(flags[flags.index("--session_name") + 1])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)["net"]


def written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_at_random(program: str, flags: list[str], last: Path, output: Path) -> list[int]:
    """Start a training and kill it, KILLS times; return the step it was found at each time.

    It is killed some moments after its start, or after its next checkpoint, so that any part of
    its work is hit.
    """
    rng = random.Random(program)
    steps = []
    for _ in range(KILLS):
        process = start(program, flags, output)
        for _ in range(rng.randrange(2)):
            before, deadline = written(last), time.monotonic() + PATIENCE
            while written(last) == before and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"it ended before\n{output.read_text()}"
        steps.append(checkpoint.load(last)["step"] if last.exists() else 0)
    return steps


def assert_killed_and_continued(program, flags, final, last, output) -> None:
    process = start(program, flags, output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    whole = weights(final)
    total = checkpoint.load(final)["step"]
    for path in (final, last):
        path.unlink()

    steps = kill_at_random(program, flags, last, output)
    assert sorted(steps) == steps
    assert len(set(steps)) >= 3  # it was killed in the middle, at different steps
    assert steps[-1] < total
    process = start(program, flags, output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    again = weights(final)
    assert again.keys() == whole.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not list(final.parent.glob(".*"))  # what was half written is gone
    assert "continuing" in output.read_text()


def test_sipe(flags, tmp_path):
    session = session_of(flags["train"])
    final, last = session / "ckpt/final.pth", session / "ckpt/last.pth"
    command = [*flags["train"], "--max_epoches", "16", "--save_freq", "1"]  # 48 steps
    output = tmp_path / "out.txt"
    assert_killed_and_continued("train_resnet50_SIPE", command, final, last, output)


def test_irn(run, tmp_path):
    cam2ir.main(run["cam2ir"])
    final, last = (
        session_of(run["train_irn"]) / f"ckpt/{name}.pth" for name in ("irn", "irn_last")
    )
    command = [*run["train_irn"], "--irn_num_epoches", "14", "--save_freq", "1"]
    assert_killed_and_continued("train_irn", command, final, last, tmp_path / "out.txt")


@pytest.mark.parametrize("model", MODELS)
def test_segmentation(model, tiny, tmp_path):
    """DeepLab v1 has chance (dropout) and running statistics beside its weights."""
    session = tmp_path / "run"
    name = f"ckpt/seg_{model}"
    command = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    command += ["--session_name", str(session), "--num_workers", "0", "--model", model]
    command += ["--label_dir", str(tiny / "masks"), "--initial", "none", "--width", "1"]
    command += ["--blocks", "1", "1", "1", "1", "--lr", "1e-7", "--print_freq", "1"]
    command += ["--batch_size", "2", "--accumulate", "1", "--crop_size", "33"]
    command += ["--iterations", "48", "--save_freq", "1"]
    final, last = session / f"{name}.pth", session / f"{name}_last.pth"
    assert_killed_and_continued("train_seg", command, final, last, tmp_path / "out.txt")


def test_an_interrupted_restart_does_not_keep_old_files(flags, monkeypatch):
    """--restart with other settings, stopped before the end, then continued without --restart."""
    train_resnet50_SIPE.main(flags["train"])
    session = session_of(flags["train"])
    make_cam.main(flags["make_cam"])
    other = [*flags["make_cam"], "--scales", "0.5"]

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(make_cam, "infer", dies)
    with pytest.raises(KeyboardInterrupt):
        make_cam.main([*other, "--restart"])
    monkeypatch.undo()
    assert not list((session / "npy").glob("*.npz"))
    make_cam.main(other)
    assert len(list((session / "npy").glob("*.npz"))) == 6
