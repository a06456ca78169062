"""How programs end: sentences, statuses, and terminals that cannot take what is printed."""

import argparse
import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tool import distributed
from tool.errors import InputError
from tool.run import run, sentence_of
from tool.session import Session

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory does"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory does not suffice"),
        (RuntimeError("unable to mmap 64 bytes from file </torch_1_2>"), "--num_workers 0.*shm"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
            "--num_workers 0.*--shm-size",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "A process that reads pictures was killed.*--num_workers",
        ),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"), "Another process"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/ckpt/last.pth"),
            "x/ckpt/last.pth: No",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "list.txt"), "list.txt: Permission"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(error, words, caplog):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2

    assert re.search(words, caplog.records[0].getMessage())
    assert caplog.records[0].exc_info is None


def test_a_fault_of_the_program_is_no_sentence():
    for error in (RuntimeError("shapes differ"), ValueError("x"), KeyError("y"), OSError("odd")):
        assert sentence_of(error) is None


def program(tmp_path: Path, body: str) -> list[str]:
    """Return the command of a program that opens a session and does something."""
    path = tmp_path / "program.py"
    path.write_text(
        "import argparse, logging, sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from tool.run import run\nfrom tool.session import Session\n"
        "log = logging.getLogger('tool.test')\n"
        "def main():\n"
        f"    Session({str(tmp_path / 's')!r}, 'program', argparse.Namespace()).accept()\n"
        f"    {body}\n"
        "run(main)\n"
    )
    return [sys.executable, str(path)]


def test_a_reader_that_goes_ends_nothing(tmp_path):
    """As in ``program | head -1``; the log file is complete."""
    command = program(tmp_path, "[log.info('line %d', i) for i in range(20000)]")
    pipe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert pipe.stdout.readline().startswith("program -> ")
    pipe.stdout.close()
    assert "Traceback" not in pipe.stderr.read()
    pipe.wait(60)
    assert (tmp_path / "s/s.log").read_text().endswith("line 19999\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")
def test_a_full_disk_behind_the_console_ends_nothing(tmp_path):
    command = program(tmp_path, "log.info('a line')")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "s/s.log").read_text().endswith("a line\n")


def test_an_ascii_terminal_shows_what_it_can(tmp_path):
    command = program(tmp_path, "log.info('Größe × 2')")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=env, timeout=60)
    assert done.returncode == 0
    assert b"Gr??e ? 2" in done.stdout
    assert "Größe × 2" in (tmp_path / "s/s.log").read_text(encoding="utf-8")


def test_a_thread_that_cannot_write_leaves_the_sentence_to_the_program(tmp_path):
    """TensorBoard writes in a thread, and raises its error again where it is next called."""
    body = "threading.Thread(target=lambda: os.stat('nowhere')).start(); {}"
    body = f"import os, threading; {body}"
    done = subprocess.run(program(tmp_path, body), capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    other = body.replace("os.stat('nowhere')", "{}['x']")
    done = subprocess.run(program(tmp_path, other), capture_output=True, text=True, timeout=60)
    assert "KeyError: 'x'" in done.stderr


def test_a_log_that_cannot_be_written_ends_the_program(tmp_path, monkeypatch):

    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        Session(tmp_path / "s", "program", argparse.Namespace()).accept()
        (file,) = (h for h in root.handlers if isinstance(h, logging.FileHandler))

        def full(text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(file.stream, "write", full, raising=False)
    except AttributeError:  # the stream of a file cannot be patched
        file.stream = type("Full", (), {"write": staticmethod(full), "flush": lambda self: None})()
    try:
        with pytest.raises(InputError, match=r"s\.log could not be written: No space left"):
            logging.getLogger("tool.test").info("a line")
    finally:
        root.handlers[:] = handlers


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_an_odd_environment_is_named(name, monkeypatch):
    monkeypatch.setenv(name, "abc")
    function = getattr(distributed, name.lower())
    with pytest.raises(InputError, match=rf"{name} is 'abc'.*Unset it"):
        function()


def with_shared_memory(size: str, command: list[str]) -> subprocess.CompletedProcess:
    """Run a command beside a /dev/shm of a size, where a test may mount one."""
    mount = f"mount -t tmpfs -o size={size} none /dev/shm"
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    try:
        if subprocess.run([*private, mount], capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    whole = [*private, f'{mount} && exec "$@"', "sh", *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=100, cwd=REPOSITORY)


def test_no_shared_memory_at_all_is_said(flags):
    """Not even the semaphores of processes that read pictures have room."""
    command = [sys.executable, "train_resnet50_SIPE.py", *flags["train"], "--num_workers", "2"]
    done = with_shared_memory("16k", command)
    assert done.returncode == 2
    assert "The shared memory (/dev/shm) is too small" in done.stdout
    assert "--num_workers 0" in done.stdout
    assert "Traceback" not in done.stderr


def test_pictures_do_not_pass_through_shared_memory(tiny):
    """Containers have 64 MB of it, which a full queue of tensors would exceed."""
    code = (
        "from data.folder import Folder\nfrom data.loaders import ScaledPictures, one_by_one\n"
        f"dataset = Folder({str(tiny)!r})\n"
        "pictures = ScaledPictures(dataset, dataset.ids('train'), (8.0,))\n"
        "items = list(one_by_one(pictures, 8))\n"
        "print(len(items), sum(p.nbytes for i in items for p in i['pictures']) > 2_000_000)"
    )
    done = with_shared_memory("1m", [sys.executable, "-W", "ignore", "-c", code])
    assert (done.stdout, done.stderr) == ("6 True\n", "")
