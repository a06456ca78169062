"""A short sweep of damaged files; ``python -m tests.sweep_files`` is the long one."""

import signal

import pytest

from tests import sweep_files
from tool.errors import InputError


@pytest.fixture(autouse=True)
def no_timer():
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_give_sane_numbers(tmp_path):
    counts = sweep_files.sweep(tmp_path, 15, seed=7)
    assert sweep_files.unexpected(counts) == {}
    assert sum(found["refused"] for found in counts.values()) > 150
    assert len(counts) == 16


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (InputError("a.pth is wrong"), "refused"),
        (InputError("something is wrong"), "a message that does not name the file"),
        (ValueError(), "ValueError"),
        (SystemExit(), "SystemExit"),
        (sweep_files.Late(), "longer than"),
        (None, "read"),
    ],
)
def test_outcomes_are_told_apart(tmp_path, error, what):
    def read(path):
        if error is not None:
            raise error

    assert sweep_files.outcome(tmp_path / "a.pth", read).startswith(what)
