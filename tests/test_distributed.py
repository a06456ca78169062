"""1, 2 and 3 processes: the same weights, the same files, one log."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import together

import cam2ir
from tool import checkpoint, distributed

REPOSITORY = Path(__file__).parent.parent
NUMBERS = (1, 2, 3)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def process(monkeypatch):
    """Make this process one of several, without the others."""

    def become(rank: int, number: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(number))

    return become


@pytest.fixture
def confident(run):
    """Command lines of steps 2.1 to 2.4 in a session that has been through 2.1."""
    cam2ir.main(run["cam2ir"])
    return run


def session_of(flags: list[str]) -> Path:
    return Path(flags[flags.index("--session_name") + 1])


def in_session(flags: list[str], session: Path) -> list[str]:
    return [*flags, "--session_name", str(session)]


def assert_same_weights(files: list[Path]) -> None:
    """Compare with the first file, to the rounding of sums in another order."""
    first, *others = (checkpoint.load(path)["net"] for path in files)
    for other in others:
        assert first.keys() == other.keys()
        for name, value in first.items():
            assert torch.allclose(value, other[name], rtol=2e-5, atol=2e-6), name


# ------------------------------------------------------------------------------ trainers


def test_sipe_weights_do_not_depend_on_the_number_of_processes(flags, tmp_path):
    files, losses = [], []
    # 7 steps of 5 pictures: 2 + 3 for two processes, 1 + 2 + 2 for three.
    settings = ["--batch_size", "5", "--max_epoches", "7", "--val_freq", "3", "--val_list", "train"]
    for number in NUMBERS:
        session = tmp_path / f"n{number}"
        command = in_session([*flags["train"], *settings], session)
        together("train_resnet50_SIPE", command, number, tmp_path / f"{number}.txt")
        files.append(session / "ckpt/final.pth")
        log = (session / f"n{number}.log").read_text().splitlines()
        lines = [line for line in log if line.startswith("step:")]
        assert len(lines) == 7
        losses.append([line.split("imps")[0] for line in lines])
        assert sum("validation step:" in line for line in log) == 2
        losses[-1] += [line for line in log if "miou" in line]
    assert_same_weights(files)
    assert losses[0] == losses[1] == losses[2]
    start = checkpoint.load(flags["train"][flags["train"].index("--pretrained") + 1])
    trained = checkpoint.load(files[0])["net"]["resnet50.layer4.0.conv1.weight"]
    assert not torch.allclose(trained, start["layer4.0.conv1.weight"], rtol=2e-5, atol=2e-6)


def test_sipe_without_the_consistency_loss_trains_in_two_processes(flags, tmp_path):
    """The side layers have no gradient then, which data parallel training must be told."""
    command = in_session([*flags["train"], "--gsc_weight", "0"], tmp_path / "run")
    together("train_resnet50_SIPE", command, 2, tmp_path / "out.txt")
    assert (tmp_path / "run/ckpt/final.pth").exists()


def test_irn_weights_do_not_depend_on_the_number_of_processes(confident, tmp_path):
    """Its losses are ratios of sums over the whole batch, not means of ratios of parts."""
    files = []
    command = [*confident["train_irn"], "--irn_batch_size", "5", "--irn_num_epoches", "5"]
    for number in NUMBERS:
        together("train_irn", command, number, tmp_path / f"{number}.txt")
        file = session_of(confident["train_irn"]) / "ckpt/irn.pth"
        files.append(file.rename(tmp_path / f"irn{number}.pth"))
        (session_of(confident["train_irn"]) / "ckpt/irn_last.pth").unlink()
    assert_same_weights(files)
    shift = checkpoint.load(files[0])["net"]["mean_shift.running_mean"]
    assert shift.abs().max() > 1e-4


# ------------------------------------------------------------------------------ files


def test_programs_that_write_a_file_a_picture_write_the_same(flags, confident, tmp_path):
    """Bytes of labels; arrays of maps, whose zip files hold the time."""
    together("train_resnet50_SIPE", flags["train"], 1, tmp_path / "train.txt")
    together("train_irn", confident["train_irn"], 1, tmp_path / "irn.txt")
    source = session_of(flags["train"])
    found = []
    for number in NUMBERS:
        output = tmp_path / f"{number}.txt"
        session = tmp_path / f"n{number}"
        (session / "ckpt").mkdir(parents=True)
        (session / "ckpt/final.pth").symlink_to(source / "ckpt/final.pth")
        (session / "ckpt/irn.pth").symlink_to(session_of(confident["train_irn"]) / "ckpt/irn.pth")
        common = in_session(flags["make_cam"], session)
        small = [*common, "--irn_crop_size", "80"]
        crf = ["--refine", "crf", "--sem_seg_out_dir", str(session / "crf_label")]
        together("make_cam", common, number, output)
        together("cam2ir", common, number, output)
        together("make_seg_labels", small, number, output)
        together("make_seg_labels", [*small, *crf], number, output)
        content = {}
        for path in sorted(session.glob("*/*")):
            if path.suffix == ".png":
                content[str(path.relative_to(session))] = path.read_bytes()
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    content[path.name] = {name: file[name].tobytes() for name in file.files}
        assert len(content) == 4 * 6
        found.append(content)
        assert not list(session.glob("*/.*.tmp"))
    assert found[0] == found[1] == found[2]


def test_torchrun_starts_a_program(flags, tmp_path):
    """The others imitate its environment; this one is the real thing."""
    together("train_resnet50_SIPE", flags["train"], 1, tmp_path / "train.txt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(REPOSITORY / "make_cam.py"), *flags["make_cam"]]
    result = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    session = session_of(flags["train"])
    assert len(list((session / "npy").glob("*.npz"))) == 6
    # One process speaks, about its share.
    assert (result.stdout + result.stderr).count("3 of the 6 pictures, 0 of them done before") == 1


def test_several_processes_end_with_a_sentence_and_no_traceback(flags):
    command = [sys.executable, "-m", "tool.launch", "--standalone", "--nproc_per_node=2"]
    command += ["train_resnet50_SIPE.py", *flags["train"], "--batch_size", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "error: A batch of 1 cannot be shared by 2 processes" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


# ------------------------------------------------------------------------------ who does what


@pytest.mark.parametrize("number", [1, 2, 3, 5, 16])
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


def test_a_mean_of_uneven_parts_is_that_of_the_whole(process):
    values = torch.arange(7, dtype=torch.float64) ** 2
    mean = 0
    for rank in range(3):
        process(rank, 3)
        part = values[distributed.rows(7)]
        mean += part.mean() * distributed.weight(len(part), 7) / 3
    assert float(mean) == pytest.approx(float(values.mean()))


def test_alone_nothing_is_started():
    distributed.start()
    distributed.barrier()
    values = torch.tensor([1.5])
    assert distributed.total(values) == values
    assert distributed.total(values) is not values
    assert not torch.distributed.is_initialized()
