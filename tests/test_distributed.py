"""1, 2 and 3 processes: the same weights, the same files, one log."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import together

import cam2ir
import train_irn
import train_resnet50_SIPE
import train_seg
from tests.conftest import load_program
from tests.tiny import command_lines
from tool import distributed
from tool.checkpoint import load_state

REPOSITORY = Path(__file__).parent.parent
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # the rounding of sums in another order


@pytest.fixture
def process(monkeypatch):
    """Make this process one of several, without the others."""

    def become(rank: int, number: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(number))

    return become


# ------------------------------------------------------------------------------ trainers


def test_sipe_weights_do_not_depend_on_the_number_of_processes(flags, weights, tmp_path):
    # 7 steps of 5 pictures: 2 + 3 for two processes, 1 + 2 + 2 for three.
    command = [*flags["train"], "--batch_size", "5", "--max_epoches", "7", "--val_freq", "3"]
    command += ["--val_list", "train", "--session_name"]
    states, logs = [], []
    for number in (1, 2, 3):
        session = tmp_path / f"n{number}"
        together("train_resnet50_SIPE", [*command, str(session)], number, tmp_path / "out.txt")
        states.append(load_state(session / "ckpt/final.pth"))
        log = (session / f"n{number}.log").read_text().splitlines()
        lines = [
            line.split("imps")[0] for line in log if line.startswith(("step:", "validation step:"))
        ]
        assert len(lines) == 7 + 2
        logs.append(lines)
    assert logs[0] == logs[1] == logs[2]
    torch.testing.assert_close(states[1], states[0], **CLOSE)
    torch.testing.assert_close(states[2], states[0], **CLOSE)
    start, name = load_state(weights), "layer4.0.conv1.weight"
    assert not torch.allclose(states[0][f"backbone.{name}"], start[name], **CLOSE)


def test_sipe_without_the_consistency_loss_trains_in_two_processes(flags, tmp_path):
    """The side layers have no gradient then, which data parallel training must be told."""
    command = [*flags["train"], "--gsc_weight", "0"]
    together("train_resnet50_SIPE", command, 2, tmp_path / "out.txt")
    assert (tmp_path / "run/ckpt/final.pth").exists()


def test_irn_weights_do_not_depend_on_the_number_of_processes(run, tmp_path):
    """Its losses are ratios of sums over the whole batch, not means of ratios of parts."""
    cam2ir.main(run["cam2ir"])
    command = [*run["train_irn"], "--irn_batch_size", "5", "--irn_num_epoches", "5", "--restart"]
    states = []
    for number in (1, 3):
        together("train_irn", command, number, tmp_path / "out.txt")
        states.append(load_state(tmp_path / "run/ckpt/irn.pth"))
    torch.testing.assert_close(states[1], states[0], **CLOSE)
    assert states[0]["mean_shift.running_mean"].abs().max() > 1e-4


# ------------------------------------------------------------------------------ files


@pytest.fixture
def trained(flags, run, tiny, weights, tmp_path) -> Path:
    """The session of both fixtures, with the weights of all three networks."""
    cam2ir.main(run["cam2ir"])
    train_resnet50_SIPE.main(flags["train"])
    train_irn.main(run["train_irn"])
    segmentation = command_lines(tiny, tmp_path / "run", weights)["train_seg"]
    train_seg.main([*segmentation, "--label_dir", str(tiny / "masks")])
    return tmp_path / "run"


def test_programs_that_write_a_file_a_picture_write_the_same(flags, trained, tmp_path):
    """Bytes of labels; arrays of maps, whose zip files hold the time."""
    found = []
    for number in (1, 3):
        session = tmp_path / f"n{number}"
        shutil.copytree(trained / "ckpt", session / "ckpt")
        common = [*flags["make_cam"], "--session_name", str(session)]
        labels = [*common, "--irn_crop_size", "80"]
        crf = [*labels, "--refine", "crf", "--sem_seg_out_dir", str(session / "crf_label")]
        commands = {"make_cam": [common], "cam2ir": [common], "make_seg_labels": [labels, crf]}
        commands["infer_seg"] = [[*common, "--crf_iterations", "1"]]
        for program, command in ((name, one) for name in commands for one in commands[name]):
            if number == 1:
                load_program(program).main(command)
            else:
                together(program, command, number, tmp_path / "out.txt")
        content = {}
        for path in session.glob("*/*.*"):
            if path.suffix == ".png":
                content[path.relative_to(session)] = path.read_bytes()
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    content[path.name] = {name: file[name].tobytes() for name in file.files}
        assert len(content) == 5 * 6
        found.append(content)
    assert found[0] == found[1]


def launch(*command: str) -> subprocess.CompletedProcess:
    """Run a program in two processes; other tests imitate the environment of these."""
    words = [sys.executable, "-m", "tool.launch", "--standalone", "--nproc_per_node=2", *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=env, cwd=REPOSITORY)


def test_torchrun_starts_a_program(flags, tmp_path, weights):
    train_resnet50_SIPE.main(flags["train"])
    done = launch("make_cam.py", *flags["make_cam"])
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run/npy").glob("*.npz"))) == 6
    # One process speaks, about its share.
    assert (done.stdout + done.stderr).count("3 of 6 pictures, 0 done before") == 1


def test_several_processes_end_with_a_sentence_and_no_traceback(flags, tmp_path):
    command = [*flags["train"], "--batch_size", "1"]
    with pytest.raises(AssertionError, match=r"\[2, 2\]") as ended:
        together("train_resnet50_SIPE", command, 2, tmp_path / "out.txt")
    assert "error: A batch of 1 " in str(ended.value)
    program = tmp_path / "refuses.py"
    program.write_text("raise SystemExit(2)")
    done = launch(str(program))
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr + str(ended.value)


# ------------------------------------------------------------------------------ who does what


@pytest.mark.parametrize("number", [1, 3, 16])
def test_parts_of_batches_and_lists_are_whole_together(process, number):
    rows, items = [], []
    for rank in range(number):
        process(rank, number)
        part = distributed.rows(16)
        rows += range(16)[part]
        items += distributed.share(range(37))
        assert abs((part.stop - part.start) - 16 / number) < 1
    assert rows == list(range(16))
    assert sorted(items) == list(range(37))


def test_alone_nothing_is_started():
    distributed.start()
    values = torch.tensor([1.5])
    assert distributed.total(values) is not values
    assert distributed.total(values) == values
    assert not torch.distributed.is_initialized()
