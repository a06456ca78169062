"""How programs end: sentences, statuses, and terminals that cannot take what is printed."""

import errno
import logging
import os
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from data.folder import Folder
from data.loaders import one_by_one, plain_picture
from tool import distributed
from tool.cli import Parser
from tool.errors import InputError
from tool.run import run, sentence_of
from tool.session import Session, _LogFile
from tool.stop import Stopped

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (InputError("There is no picture a.jpg."), "^error: There is no picture a.jpg.$", 2),
        (KeyboardInterrupt(), "the same command continues", 130),
        (MemoryError(), "memory", 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory", 2),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory", 2),
        (RuntimeError("unable to mmap 64 bytes from file </torch_1_2>"), "--num_workers 0", 2),
        (RuntimeError("DataLoader worker is killed by signal: Bus error."), "--shm-size", 2),
        (RuntimeError("DataLoader worker is killed by signal: Killed."), "--num_workers", 2),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"), "Another process", 2),
        (OSError(errno.ENOSPC, "No space left on device", "x/last.pth"), "x/last.pth: No", 2),
        (OSError(errno.EMFILE, "Too many open files", "x/a.png"), "ulimit -n", 2),
        (OSError("Caught OSError in worker: [Errno 24] Too many open files"), "ulimit -n", 2),
        (RuntimeError("unable to open: Too many open files (24)"), "ulimit -n", 2),
        (Stopped(15, " at step 3 of 9"), "the same command continues at step 3 of 9", 143),
    ],
)
def test_what_ends_as_a_sentence(error, words, status, caplog):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == status
    assert re.search(words, caplog.messages[0])
    assert caplog.records[0].exc_info is None


def test_a_fault_of_the_program_is_no_sentence():
    for error in (RuntimeError("shapes differ"), ValueError("x"), KeyError("y"), OSError("odd")):
        assert sentence_of(error) is None
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_mistake_found_by_a_worker_ends_as_the_same_sentence(tiny, caplog):
    path = tiny / "images/c.png"
    path.write_bytes(b"")
    picture_of = partial(plain_picture, Folder(tiny), 1e6)
    items = one_by_one(picture_of, ["a", "c"], num_workers=1)
    with pytest.raises(SystemExit):
        run(lambda: list(items))
    assert caplog.messages[-1].startswith(f"error: {path} ")


def program(tmp_path: Path, body: str) -> list[str]:
    """Return the command of a program that opens a session and does something."""
    path = tmp_path / "program.py"
    path.write_text(
        "import logging, sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from tool.cli import Parser\nfrom tool.run import run\nfrom tool.session import Session\n"
        "log = logging.getLogger('tool.test')\n"
        "def main():\n"
        f"    Session({str(tmp_path / 's')!r}, 'program', Parser('').parse_args([])).accept()\n"
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


def test_an_ascii_terminal_shows_what_it_can_and_a_thread_what_it_cannot_write(tmp_path):
    """TensorBoard writes in a thread, and raises its error again where it is next called."""
    body = "log.info('Größe × 2'); print('Länge'); import os, threading; "
    body += "threading.Thread(target=lambda: os.stat('nowhere')).start(); "
    body += "threading.Thread(target=lambda: {}['x']).start()"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(program(tmp_path, body), capture_output=True, env=env, timeout=60)
    assert done.returncode == 0
    assert b"Gr\\xf6\\xdfe \\xd7 2" in done.stdout
    assert b"L\\xe4nge" in done.stdout
    assert "Größe × 2" in (tmp_path / "s/s.log").read_text(encoding="utf-8")
    assert b"KeyError: 'x'" in done.stderr
    assert b"FileNotFoundError" not in done.stderr


def test_a_log_that_cannot_be_written_ends_the_program(tmp_path):
    root = logging.getLogger()
    Session(tmp_path / "s", "program", Parser("").parse_args([])).accept()
    (file,) = (h for h in root.handlers if isinstance(h, _LogFile))
    full = OSError(errno.ENOSPC, "No space left on device")
    file.stream = Mock(write=Mock(side_effect=full))
    with pytest.raises(InputError, match=r"s\.log .*No space left"):
        logging.getLogger("tool.test").info("a line")


@pytest.mark.parametrize("name", ["RANK", "LOCAL_WORLD_SIZE"])
def test_an_odd_environment_is_named(name, monkeypatch):
    monkeypatch.setenv(name, "abc")
    with pytest.raises(InputError, match=f"{name} is 'abc'"):
        distributed.number(name, 0)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((256, 1024), [(1024, 1024)]),
        ((256, 10**6), [(4096, 10**6)]),
        ((256, resource.RLIM_INFINITY), [(4096, resource.RLIM_INFINITY)]),
        ((8192, 10**6), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_the_limit_of_open_files_is_raised(limits, expected, monkeypatch):
    done = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: done.append(limits))
    run(lambda: None)
    assert done == expected


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
    assert "--num_workers 0" in done.stdout
    assert "Traceback" not in done.stderr


def test_pictures_do_not_pass_through_shared_memory(tiny):
    """Containers have 64 MB of it, which a full queue of tensors would exceed."""
    code = (
        "from functools import partial\nfrom data.folder import Folder\n"
        "from data.loaders import one_by_one, scaled_picture\n"
        f"dataset = Folder({str(tiny)!r})\n"
        "picture_of = partial(scaled_picture, dataset, (8.0,), 1e6)\n"
        "items = list(one_by_one(picture_of, dataset.ids('train'), 8))\n"
        "print(len(items), sum(p.nbytes for i in items for p in i['pictures']) > 2_000_000)"
    )
    done = with_shared_memory("1m", [sys.executable, "-W", "ignore", "-c", code])
    assert (done.stdout, done.stderr) == ("6 True\n", "")
