"""How programs end: asked by a signal in the middle of a training, or killed with its processes."""

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from processes import STEPS, environments, start
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from tests.conftest import load_program, play
from tests.tiny import command_lines
from tool import checkpoint

REPOSITORY = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds, of which a loaded machine may need some
READ_AHEAD = 12  # steps, for which two loaders have not read
LAST = "run/ckpt/seg_deeplabv2_resnet101_last.pth"


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True)
    return [int(word) for word in found.stdout.split()]


def lives(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True).stdout
    return bool(state) and not state.startswith(b"Z")


@pytest.fixture
def training(tiny, weights, tmp_path):
    """Return a function that starts a training, and waits for its steps: process, output."""
    flags = [*command_lines(tiny, tmp_path / "run", weights)["train_seg"], "--iterations", "9999"]
    flags += ["--save_freq", "99999", "--label_dir", str(tiny / "masks")]

    def begin(*more: str, **environment: str):
        output = tmp_path / f"out{environment.get('RANK', '')}.txt"
        process = start("train_seg", [*flags, *more], output, environment)
        processes.append(process)
        return process, output

    processes = []
    yield begin
    for process in processes:
        process.kill()


def steps_of(output: Path) -> list[int]:
    text = output.read_text() if output.exists() else ""
    return [int(step) for step in re.findall(r"^step: *(\d+)/", text, re.MULTILINE)]


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="loaders die of SIGTERM here")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_training_that_is_asked_to_end_saves_its_step(number, training, tmp_path):
    """Its loaders get the signal too, as from a terminal or a batch system, and live on."""
    process, output = training("--num_workers", "2")
    wait_until(lambda: len(steps_of(output)) > 2, "it trains")
    loaders = children(process.pid)
    assert len(loaders) == 2
    for pid in loaders:
        os.kill(pid, signal.Signals[number])
    more = len(steps_of(output)) + READ_AHEAD
    wait_until(lambda: len(steps_of(output)) > more or not process.is_alive(), "it trains on")
    assert process.is_alive(), output.read_text()
    os.kill(process.pid, signal.Signals[number])
    process.join(PATIENCE)
    text, done = output.read_text(), steps_of(output)[-1] + 1
    assert process.exitcode == 128 + signal.Signals[number], text
    assert f"interrupted; the same command continues at step {done} of " in text
    assert "Traceback" not in text
    last = checkpoint.load(tmp_path / LAST)
    assert (last["step"], len(last["curves"])) == (done, done)
    wait_until(lambda: not any(map(lives, loaders)), "its loaders end")


@pytest.mark.parametrize(("method", "loaders"), [("fork", 3), ("forkserver", 1)])
def test_loaders_end_with_a_training_that_is_killed(method, loaders, training):
    """Also where a server of processes, which has imported nothing, is the parent of loaders."""
    process, output = training("--num_workers", str(loaders), START_METHOD=method)
    wait_until(lambda: steps_of(output), "it trains")
    below = children(process.pid)
    below += [pid for one in below for pid in children(one)]
    assert len(below) >= loaders
    process.kill()
    process.join()
    wait_until(lambda: not any(map(lives, below)), "its loaders end")


def test_a_signal_of_one_process_ends_all_of_them_at_one_step(training, tmp_path):
    (first, output), (second, other) = (training(**one) for one in environments(2))
    wait_until(lambda: len(steps_of(output)) > 2, "it trains")
    os.kill(second.pid, signal.SIGTERM)
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert (first.exitcode, second.exitcode) == (143, 143), output.read_text()
    done = checkpoint.load(tmp_path / LAST)["step"]
    for text in (output.read_text(), other.read_text()):
        assert f"continues at step {done} of " in text


def test_time_saves_where_steps_are_slow(flags, monkeypatch):
    train, saved = load_program("train_resnet50_SIPE"), []
    monkeypatch.setattr(checkpoint, "save", lambda path, content: saved.append(content["step"]))
    common = [*flags["train"], "--save_freq", "99999", "--save_minutes"]
    for minutes, steps in (("1e-9", [1, 2, 3, 4, 5, 6, 6]), ("60", [6, 6])):
        train.main([*common, minutes])
        assert saved == steps
        saved.clear()


# ------------------------------------------------------------------------------- torchrun


def launch(monkeypatch, error: Exception | None = None, *words: str) -> tuple[int, list[str]]:
    """Run tool.launch beside a torchrun that only raises an error; return status and words."""
    torchrun = Mock(side_effect=error)
    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    monkeypatch.setattr(sys, "argv", ["launch", *words])
    try:
        runpy.run_module("tool.launch", run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code
    return status, torchrun.call_args.args[0]


def failed(**codes: int) -> ChildFailedError:
    """Return what torchrun raises where processes, r0, r1, .., ended with these codes."""
    failures = {
        int(name[1:]): SimpleNamespace(exitcode=code, timestamp=0, local_rank=0, pid=1, message="")
        for name, code in codes.items()
    }
    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = failures
    return error


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (None, 0, ""),
        (failed(r0=2), 2, ""),
        (failed(r1=-9), 1, "Process 1 was killed by SIGKILL"),
        (failed(r0=2, r3=-15), 2, "Process 3 was killed by SIGTERM"),
        (SignalException("asked", signal.SIGTERM), 143, ""),
    ],
)
def test_how_torchrun_ends_is_one_sentence(error, status, sentence, monkeypatch, capsys):
    assert launch(monkeypatch, error, "x.py")[0] == status
    said = capsys.readouterr().err
    assert sentence in said
    assert bool(said) == bool(sentence)


def test_one_machine_needs_no_name(monkeypatch):
    """torchrun looks the machine's name up otherwise, and waits long where nobody knows it."""
    _, words = launch(monkeypatch, None, "--standalone", "x.py")
    assert words == ["--local_addr=127.0.0.1", "--standalone", "x.py"]
    assert launch(monkeypatch, None, "--nnodes=2", "x.py")[1] == ["--nnodes=2", "x.py"]


def test_a_process_of_several_ends_with_torchrun(tmp_path):
    """As a signal does it, so a training saves its step."""
    child = "import time; from tool.stop import follow_launcher; follow_launcher(); "
    child += "print(flush=True); time.sleep(99)"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    words = [sys.executable, "-c", middle]
    launcher = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE)
    launcher.stdout.readline()
    (process,) = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not lives(process), "it ends")


# ------------------------------------------------------------------------------- where it runs


def chain(tiny: Path, session: Path, weights: Path, workers: int) -> list[list[str]]:
    """Return the command lines of all programs that read pictures in processes."""
    lines = command_lines(tiny, session, weights)
    more = {
        "train_resnet50_SIPE": ["--val_freq", "5", "--val_list", "train"],
        "make_cam": ["--visualize", "--scales", "1.0"],
        "infer_seg": ["--crf_iterations", "1"],
        "eval_seg_labels": ["--label_dir", str(session / "seg_deeplabv2_resnet101")],
    }
    crf = ["--refine", "crf", "--sem_seg_out_dir", str(session / "crf_label")]
    workers = ["--num_workers", str(workers)]
    steps = [[f"{name}.py", *lines[name], *more.get(name, []), *workers] for name in STEPS]
    return [*steps, ["make_seg_labels.py", *lines["make_seg_labels"], *crf, *workers]]


@pytest.fixture
def unforked():
    """Processes come from the server of tests/processes.py, which has imported everything."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("unforked")
def test_every_program_runs_where_processes_are_not_forked(tiny, weights, tmp_path):
    """What they are given has to be pickled, as by Windows, macOS and Python 3.14."""
    play(chain(tiny, tmp_path / "run", weights, 1))
    assert (tmp_path / "run/eval_seg_deeplabv2_resnet101.json").exists()


MISSING = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import os, signal
for name in ("sigtimedwait", "pthread_sigmask", "SIGHUP"):
    delattr(signal, name)
del os.sched_getaffinity
from tests.conftest import play
from tool.run import run
run(lambda: play({lines!r}))
"""


def test_programs_run_without_what_windows_lacks(tiny, weights, tmp_path):
    """A training, one that writes files of pictures, and one that judges them."""
    code = MISSING.format(lines=chain(tiny, tmp_path / "run", weights, 0)[:3])
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there are no locks here" in done.stdout
    assert (tmp_path / "run/eval_cam.json").exists()
