"""Trainers that are killed again and again end with the weights of an uninterrupted run."""

import random
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from processes import start

import make_cam
import train_resnet50_SIPE
from net.recipes import MODELS
from tests.tiny import command_lines
from tool import checkpoint

KILLS = 5
PATIENCE = 60.0  # seconds that a process may take to its next checkpoint
V2, V1 = MODELS
# A trainer, its last weights and those to continue from, and flags for 33 steps.
TRAINERS = [
    ("train_resnet50_SIPE", "final", "last", ["--max_epoches", "11"]),
    ("train_irn", "irn", "irn_last", ["--irn_num_epoches", "11"]),
    ("train_seg", f"seg_{V2}", f"seg_{V2}_last", ["--iterations", "33"]),
    # DeepLab v1 has chance (dropout) and running statistics beside its weights.
    ("train_seg", f"seg_{V1}", f"seg_{V1}_last", ["--iterations", "33", "--model", V1]),
]


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


@pytest.mark.parametrize(("program", "final", "last", "more"), TRAINERS)
def test_killed_and_continued(program, final, last, more, tiny, weights, tmp_path):
    output, folder = tmp_path / "out.txt", tmp_path / "run/ckpt"
    (tmp_path / "run").mkdir()
    for name in ("ir_label", "pseudo_label"):
        (tmp_path / "run" / name).symlink_to(tiny / "masks")
    flags = [*command_lines(tiny, tmp_path / "run", weights)[program], "--save_freq", "1", *more]
    final, last = folder / f"{final}.pth", folder / f"{last}.pth"

    def finish() -> checkpoint.Checkpoint:
        process = start(program, flags, output)
        process.join()
        assert process.exitcode == 0, output.read_text()
        return checkpoint.load(final)

    whole = finish()
    for path in (final, last):
        path.unlink()
    steps = kill_at_random(program, flags, last, output)
    assert sorted(steps) == steps
    assert len(set(steps)) >= 3  # it was killed in the middle, at different steps
    assert steps[-1] < whole["step"]
    torch.testing.assert_close(finish()["net"], whole["net"], rtol=0, atol=0)
    assert not list(folder.glob(".*.tmp"))  # what was half written is gone
    assert "continuing" in output.read_text()


def test_an_interrupted_restart_does_not_keep_old_files(flags, tmp_path, monkeypatch):
    """--restart with other settings, stopped before the end, then continued without --restart."""
    train_resnet50_SIPE.main(flags["train"])
    make_cam.main(flags["make_cam"])
    other = [*flags["make_cam"], "--scales", "0.5"]
    with monkeypatch.context() as patch:
        patch.setattr(make_cam, "infer", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_cam.main([*other, "--restart"])
    assert not list((tmp_path / "run/npy").glob("*.npz"))
    make_cam.main(other)
    assert len(list((tmp_path / "run/npy").glob("*.npz"))) == 6
